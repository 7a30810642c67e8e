//! What happens when a mapped page of a file can no longer be read.
//!
//! A page beyond the end of a file that became shorter, or one that the disk cannot give, is answered by the
//! system with SIGBUS, and that ends the process. Here it does not: a handler puts zeros in place of the
//! pages, so that the instruction under way goes on, and notes that the map lost its content. Whoever read it
//! looks at that note before anything is made of what was read, and answers with an error.
//!
//! The handler acts on maps that are registered here, and on nothing else: a SIGBUS at any other address goes
//! to the handler that was there before, or ends the process as it always would.
//!
//! Windows does not let a mapped file be shortened, so there is nothing to guard there.

pub(super) use imp::Guarded;

#[cfg(unix)]
mod imp {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// One map that is looked after, until this is dropped.
    #[derive(Debug)]
    pub(crate) struct Guarded(&'static Entry);

    impl Guarded {
        /// Looks after the map `bytes`, which begins on a page.
        ///
        /// To be dropped before the memory is unmapped.
        pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
            install()?;
            let start = bytes.as_ptr().addr();
            // An empty file is mapped as a page too; a range of nothing would be a free entry.
            let end = (start + bytes.len().max(1)).next_multiple_of(page_size());
            let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = free_entry();
            entry.set(start, end);
            Ok(Self(entry))
        }

        /// Whether zeros were put in the place of pages.
        pub(crate) fn is_lost(&self) -> bool {
            self.0.lost.load(SeqCst)
        }
    }

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.set(0, 0);
        }
    }

    /// A range of addresses, in a list that a signal handler reads: entries are never freed, only used again.
    #[derive(Debug)]
    struct Entry {
        /// Odd while the range changes. Only ranges of maps that nobody reads change, so a handler that meets
        /// an odd or a changed number has met the range of another map than the one it was called for.
        version: AtomicUsize,
        start: AtomicUsize,
        /// The first byte after the last page; `start` if the entry is free.
        end: AtomicUsize,
        lost: AtomicBool,
        next: AtomicPtr<Entry>,
    }

    /// The list's first entry.
    static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());
    /// Held while a range changes.
    static WRITER: Mutex<()> = Mutex::new(());

    impl Entry {
        /// To be called with [`WRITER`] held.
        fn set(&self, start: usize, end: usize) {
            self.version.fetch_add(1, SeqCst);
            self.start.store(start, SeqCst);
            self.end.store(end, SeqCst);
            self.lost.store(false, SeqCst);
            self.version.fetch_add(1, SeqCst);
        }

        fn is_free(&self) -> bool {
            self.start.load(SeqCst) == self.end.load(SeqCst)
        }

        /// The end of the range, if `address` is in it.
        fn end_of(&self, address: usize) -> Option<usize> {
            let version = self.version.load(SeqCst);
            let (start, end) = (self.start.load(SeqCst), self.end.load(SeqCst));
            let unchanged = version.is_multiple_of(2) && self.version.load(SeqCst) == version;
            (unchanged && (start..end).contains(&address)).then_some(end)
        }
    }

    fn entries() -> impl Iterator<Item = &'static Entry> {
        // SAFETY: such a pointer is null or points to an entry that was leaked.
        let follow = |pointer: &AtomicPtr<Entry>| unsafe { pointer.load(SeqCst).as_ref() };
        std::iter::successors(follow(&ENTRIES), move |entry| follow(&entry.next))
    }

    /// To be called with [`WRITER`] held.
    fn free_entry() -> &'static Entry {
        entries().find(|entry| entry.is_free()).unwrap_or_else(|| {
            let entry: &'static Entry = Box::leak(Box::new(Entry {
                version: AtomicUsize::new(0),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                lost: AtomicBool::new(false),
                next: AtomicPtr::new(ENTRIES.load(SeqCst)),
            }));
            ENTRIES.store(std::ptr::from_ref(entry).cast_mut(), SeqCst);
            entry
        })
    }

    /// What the process did about SIGBUS before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
    static INSTALLED: Mutex<bool> = Mutex::new(false);

    fn install() -> io::Result<()> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if *installed {
            return Ok(());
        }
        page_size();
        stay_loaded();
        // SAFETY: all fields of a sigaction may be zero; both calls get pointers to one that lives long
        // enough, and the handler does nothing but what a handler may.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            // There before the handler is.
            let _ = BEFORE.set(before);
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_sigbus as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        *installed = true;
        Ok(())
    }

    /// Keeps the library that this code is in, such as Node's addon, from being unloaded: the system would
    /// call a handler that is not there any more.
    fn stay_loaded() {
        let mut library: std::mem::MaybeUninit<libc::Dl_info> = std::mem::MaybeUninit::zeroed();
        // SAFETY: `library` is written before it is read, if dladdr says so by a number other than 0; the
        // name in it stays valid while the library is loaded. Opening a library that is open already runs no
        // code of it. Where that fails, this code is part of the program itself, which stays.
        unsafe {
            if libc::dladdr(on_sigbus as *const libc::c_void, library.as_mut_ptr()) != 0 {
                let name = library.assume_init().dli_fname;
                libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
            }
        }
    }

    /// Asked for once, because a handler had better not.
    fn page_size() -> usize {
        static SIZE: OnceLock<usize> = OnceLock::new();
        *SIZE.get_or_init(|| {
            // SAFETY: no pointers are involved.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            usize::try_from(size).unwrap_or(4096)
        })
    }

    /// Everything here may be done in a signal handler: it loads atomics and calls mmap, sigaction and raise.
    extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system hands a valid `info` to a handler that asked for it with SA_SIGINFO.
        let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
        // A code of 0 or less is from kill(), which says no address.
        if code > 0 && replace(address) {
            return;
        }
        let Some(before) = BEFORE.get() else { return };
        match before.sa_sigaction {
            libc::SIG_IGN if code <= 0 => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                // A fault happens again as soon as this returns, and then ends the process; a sent signal is
                // sent again. SAFETY: `before` came from sigaction itself.
                unsafe {
                    libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
                    if code <= 0 {
                        libc::raise(signal);
                    }
                }
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                // SAFETY: with SA_SIGINFO this is a function of these three arguments, and they are the
                // system's own.
                unsafe {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                }
            }
            handler => {
                // SAFETY: without SA_SIGINFO this is a function of the signal's number.
                unsafe {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
    }

    /// Puts zeros from the page of `address` to the end of its map, if that is one of ours. To the end,
    /// because a file that became shorter lost all the rest, and a signal for each page of a large file would
    /// take seconds.
    fn replace(address: usize) -> bool {
        let Some((entry, end)) = entries().find_map(|entry| Some((entry, entry.end_of(address)?))) else {
            return false;
        };
        entry.lost.store(true, SeqCst);
        let page = address - address % page_size();
        // SAFETY: from `page` to `end` is a part of a read-only map of ours. It is in use, for it has just
        // been read, and stays a readable map of the same length.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::with_exposed_provenance_mut(page),
                end - page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        mapped != libc::MAP_FAILED
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_map_has_an_entry_of_its_own_until_it_is_dropped() {
            let page = vec![0; 1];
            let empty = Guarded::new(&page[..0]).unwrap();
            let one = Guarded::new(&page).unwrap();
            assert!(!std::ptr::eq(empty.0, one.0));
            drop(empty);
            let address = page.as_ptr().addr();
            assert!(one.0.end_of(address).is_some_and(|end| end > address));
            let another = Guarded::new(&page).unwrap();
            assert!(!std::ptr::eq(one.0, another.0));
            let used = std::ptr::from_ref(one.0);
            drop(one);
            // Of all that other tests hold, this one is free again.
            assert!(entries().any(|entry| std::ptr::eq(entry, used)));
            drop(another);
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io;

    /// Nothing: a mapped file keeps its length.
    #[derive(Debug)]
    pub(crate) struct Guarded;

    impl Guarded {
        #[allow(clippy::unnecessary_wraps)] // as on the other systems
        pub(crate) fn new(_: &[u8]) -> io::Result<Self> {
            Ok(Self)
        }

        #[allow(clippy::unused_self)] // as on the other systems
        pub(crate) fn is_lost(&self) -> bool {
            false
        }
    }
}
