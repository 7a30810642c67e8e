//! Zip archives and pickles in pieces, to be put together rightly or wrongly.

/// An entry of a zip, and what is said of it if that is not so.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
    /// Its name at its own header.
    pub(super) local_name: Option<String>,
    pub(super) method: u16,
    pub(super) flags: u16,
    /// Bytes in the file, and what they stand for.
    pub(super) sizes: [Option<u32>; 2],
    pub(super) at: Option<u32>,
}

impl Entry {
    pub(super) fn new(name: &str, data: &[u8]) -> Self {
        let (name, data) = (name.to_owned(), data.to_vec());
        Self { name, data, local_name: None, method: 0, flags: 0, sizes: [None; 2], at: None }
    }
}

/// A zip.
#[derive(Clone, Default)]
pub(super) struct Zip {
    pub(super) entries: Vec<Entry>,
    /// Whether sizes and places are of 64 bits.
    pub(super) zip64: bool,
    /// How many entries it announces, if not as many as there are.
    pub(super) announced: Option<u16>,
}

impl Zip {
    pub(super) fn entry(&mut self, name: &str) -> &mut Entry {
        let found = self.entries.iter_mut().find(|entry| entry.name == name);
        found.expect("an entry of this name")
    }

    /// As PKWARE's APPNOTE.TXT 4.3 describes it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let at = out.len() as u32;
            let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
            let len = entry.data.len() as u32;
            let [stored, size] = entry.sizes.map(|said| said.unwrap_or(len));
            put(&mut out, b"PK\x03\x04", &[20, entry.flags, entry.method, 0, 0], &[0, stored, size]);
            put(&mut out, b"", &[local_name.len() as u16, 5], &[]);
            out.extend(local_name.as_bytes());
            out.extend(b"FB\x01\x00Z"); // as torch.save pads
            out.extend(&entry.data);

            let at = entry.at.unwrap_or(at);
            let mut extra = Vec::new();
            let mut numbers = [0, stored, size];
            let mut place = at;
            if self.zip64 {
                put(&mut extra, b"", &[1, 24], &[]);
                extra.extend([size, stored, at].iter().flat_map(|&n| u64::from(n).to_le_bytes()));
                (numbers, place) = ([0, u32::MAX, u32::MAX], u32::MAX);
            }
            put(&mut directory, b"PK\x01\x02", &[20, 20, entry.flags, entry.method, 0, 0], &numbers);
            put(&mut directory, b"", &[entry.name.len() as u16, extra.len() as u16, 0, 0, 0], &[0, place]);
            directory.extend(entry.name.as_bytes());
            directory.extend(extra);
        }
        let (at, len) = (out.len() as u32, directory.len() as u32);
        out.extend(directory);
        let count = self.announced.unwrap_or(self.entries.len() as u16);
        let end = out.len() as u64;
        let mut tail = ([count, count], [len, at]);
        if self.zip64 {
            put(&mut out, b"PK\x06\x06", &[44, 0, 0, 0, 45, 45], &[0, 0]);
            let numbers = [u64::from(count), u64::from(count), len.into(), at.into()];
            out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
            put(&mut out, b"PK\x06\x07", &[], &[0]);
            out.extend(end.to_le_bytes());
            put(&mut out, b"", &[], &[1]);
            tail = ([u16::MAX; 2], [u32::MAX; 2]);
        }
        put(&mut out, b"PK\x05\x06", &[0, 0], &[]);
        put(&mut out, b"", &tail.0, &tail.1);
        put(&mut out, b"", &[0], &[]);
        out
    }
}

fn put(out: &mut Vec<u8>, magic: &[u8], shorts: &[u16], numbers: &[u32]) {
    out.extend(magic);
    out.extend(shorts.iter().flat_map(|n| n.to_le_bytes()));
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

/// Instructions that leave one value.
pub(super) type Code = Vec<u8>;

pub(super) fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

pub(super) fn text(text: &str) -> Code {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(super) fn int(value: i64) -> Code {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

pub(super) fn tuple(items: &[Code]) -> Code {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub(super) fn ints(values: &[i64]) -> Code {
    tuple(&values.iter().map(|&value| int(value)).collect::<Vec<_>>())
}

pub(super) fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub(super) fn call(module: &str, name: &str, arguments: &[Code]) -> Code {
    [global(module, name), tuple(arguments), b"R".to_vec()].concat()
}

pub(super) fn ordered() -> Code {
    call("collections", "OrderedDict", &[])
}

pub(super) fn dict(items: &[(&str, Code)]) -> Code {
    let items: Vec<_> = items.iter().map(|(key, value)| [&text(key)[..], value].concat()).collect();
    [b"}(", &items.concat()[..], b"u"].concat()
}

/// A tensor in the pickle.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) class: &'static str,
    pub(super) key: &'static str,
    pub(super) numel: i64,
    pub(super) first: i64,
    pub(super) sizes: Code,
    pub(super) strides: Code,
    pub(super) hooks: Code,
    /// Nothing, or an argument more.
    pub(super) metadata: Code,
}

impl Tensor {
    /// All of a storage of float32, with strides as they should be.
    pub(super) fn new(key: &'static str, sizes: &[i64]) -> Self {
        let numel = sizes.iter().product();
        let strides: Vec<i64> = (1..=sizes.len()).map(|from| sizes[from..].iter().product()).collect();
        let (sizes, strides, hooks) = (ints(sizes), ints(&strides), ordered());
        Self { class: "FloatStorage", key, numel, first: 0, sizes, strides, hooks, metadata: Vec::new() }
    }

    pub(super) fn storage(&self) -> Code {
        let (key, device) = (text(self.key), text("cpu"));
        let class = global("torch", self.class);
        [tuple(&[text("storage"), class, key, device, int(self.numel)]), b"Q".to_vec()].concat()
    }

    pub(super) fn code(&self) -> Code {
        let arguments = [
            self.storage(),
            int(self.first),
            self.sizes.clone(),
            self.strides.clone(),
            b"\x89".to_vec(),
            self.hooks.clone(),
            self.metadata.clone(),
        ];
        call("torch._utils", "_rebuild_tensor_v2", &arguments)
    }
}
