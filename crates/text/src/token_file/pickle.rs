//! A reader of pickles that hold dictionaries, strings and whole numbers, and nothing else.
//!
//! A pickle is a program for a small stack machine, and most of its instructions import names, call functions
//! or build objects: whoever reads one with Python runs what is in it. Here the instructions that a plain
//! dictionary needs are followed, protocols 2 to 5, and every other one is refused by its name. Facts from
//! CPython's `Lib/pickletools.py`.

use std::ops::Range;

/// What is wrong, and at which byte.
pub(super) type Problem = (usize, String);

/// A value; small, because what belongs to it is elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Int(i64),
    /// Where in the file a string's UTF-8 is. It was found to be that.
    Text(usize, usize),
    /// Which of the dictionaries.
    Dict(usize),
}

/// A pickle's result, with the dictionaries in the order in which they were begun.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
    pub(super) result: Value,
}

impl Pickle<'_> {
    /// A string.
    pub(super) fn text(&self, value: Value) -> Option<&str> {
        let Value::Text(from, to) = value else { return None };
        std::str::from_utf8(self.bytes.get(from..to)?).ok()
    }

    /// What a dictionary has under a string.
    pub(super) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut entries = self.entries(dict)?.iter();
        entries.find(|(name, _)| self.text(*name) == Some(key)).map(|&(_, value)| value)
    }

    /// What a dictionary has.
    pub(super) fn entries(&self, dict: Value) -> Option<&[(Value, Value)]> {
        let Value::Dict(dict) = dict else { return None };
        self.dicts.get(dict).map(Vec::as_slice)
    }
}

/// Reads a pickle. Nothing that it holds is larger than some multiple of its bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>, Problem> {
    let mut machine = Machine { bytes, ..Machine::default() };
    match bytes {
        [PROTO, 2..=5, ..] => machine.at = 2,
        [PROTO, protocol, ..] => {
            return Err((1, format!("protocol {protocol} of pickle; expected 2 to 5")));
        }
        _ => return Err((0, "this is no pickle of protocol 2 to 5".to_owned())),
    }
    loop {
        let start = machine.at;
        let [code] = machine.take().map_err(|problem| (start, problem))?;
        if code == STOP {
            break;
        }
        machine.step(code).map_err(|problem| (start, problem))?;
    }
    let Machine { at, stack, marks, dicts, .. } = machine;
    let &[result] = &stack[..] else {
        return Err((at - 1, format!("{} values are left at the end; expected one", stack.len())));
    };
    if !marks.is_empty() {
        return Err((at - 1, "a mark is left at the end".to_owned()));
    }
    if at != bytes.len() {
        return Err((at, format!("{} bytes follow the end of the pickle", bytes.len() - at)));
    }
    Ok(Pickle { bytes, dicts, result })
}

pub(super) const PROTO: u8 = 0x80;
pub(super) const FRAME: u8 = 0x95;
pub(super) const STOP: u8 = b'.';
pub(super) const MARK: u8 = b'(';
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const SETITEM: u8 = b's';
pub(super) const SETITEMS: u8 = b'u';
pub(super) const MEMOIZE: u8 = 0x94;
const BINPUT: u8 = b'q';
const LONG_BINPUT: u8 = b'r';
pub(super) const BINGET: u8 = b'h';
pub(super) const LONG_BINGET: u8 = b'j';
pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
const BINUNICODE: u8 = b'X';
pub(super) const BININT: u8 = b'J';
pub(super) const BININT1: u8 = b'K';
pub(super) const BININT2: u8 = b'M';

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// The stack's length at each mark.
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    /// How many of the memo's places are taken.
    memoized: usize,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl Machine<'_> {
    /// Follows one instruction whose code was read.
    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            FRAME => {
                let len = u64::from_le_bytes(self.take()?);
                let left = self.bytes.len() - self.at;
                if len > left as u64 {
                    return Err(format!("a frame of {len} bytes is announced; {left} are left"));
                }
            }
            MARK => {
                check_count("marks", self.marks.len())?;
                self.marks.push(self.stack.len());
            }
            EMPTY_DICT => {
                check_count("dictionaries", self.dicts.len())?;
                self.stack.push(Value::Dict(self.dicts.len()));
                self.dicts.push(Vec::new());
            }
            SETITEM => {
                let len = self.stack.len();
                let from = len.checked_sub(2).filter(|&from| from >= self.floor());
                self.set_items(from.ok_or("a value is missing")?..len)?;
            }
            SETITEMS => {
                let from = self.marks.pop().ok_or("a mark is missing")?;
                self.set_items(from..self.stack.len())?;
            }
            MEMOIZE => self.put(self.memoized)?,
            BINPUT => {
                let [at] = self.take()?;
                self.put(usize::from(at))?;
            }
            LONG_BINPUT => {
                let at = u32::from_le_bytes(self.take()?);
                self.put(at as usize)?;
            }
            BINGET => {
                let [at] = self.take()?;
                self.fetch(usize::from(at))?;
            }
            LONG_BINGET => {
                let at = u32::from_le_bytes(self.take()?);
                self.fetch(at as usize)?;
            }
            SHORT_BINUNICODE => {
                let [len] = self.take()?;
                self.string(usize::from(len))?;
            }
            BINUNICODE => {
                let len = u32::from_le_bytes(self.take()?);
                self.string(len as usize)?;
            }
            BININT => {
                let value = i32::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            BININT1 => {
                let [value] = self.take()?;
                self.stack.push(Value::Int(value.into()));
            }
            BININT2 => {
                let value = u16::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            other => return Err(refusal(other)),
        }
        Ok(())
    }

    /// The next bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()).copied();
        self.at += N;
        taken.ok_or_else(|| "the file is cut".to_owned())
    }

    fn string(&mut self, len: usize) -> Result<(), String> {
        let from = self.at;
        let to = from.checked_add(len).filter(|&to| to <= self.bytes.len());
        let to = to.ok_or_else(|| {
            format!("a string of {len} bytes is announced; {} are left", self.bytes.len() - from)
        })?;
        std::str::from_utf8(&self.bytes[from..to]).map_err(|_| "a string that is not UTF-8".to_owned())?;
        self.stack.push(Value::Text(from, to));
        self.at = to;
        Ok(())
    }

    /// The part of the stack that belongs to the last mark begins here.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// Puts keys and values from the stack into the dictionary below them.
    fn set_items(&mut self, items: Range<usize>) -> Result<(), String> {
        let dict = items.start.checked_sub(1).filter(|&dict| dict >= self.floor());
        let dict = dict.and_then(|dict| self.stack.get(dict).copied());
        let Some(Value::Dict(dict)) = dict else {
            return Err("items without a dictionary".to_owned());
        };
        let (pairs, rest) = self.stack.get(items.clone()).ok_or("a value is missing")?.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key without a value".to_owned());
        }
        let entries = self.dicts.get_mut(dict).ok_or("items without a dictionary")?;
        for &[key, value] in pairs {
            if matches!(key, Value::Dict(_)) {
                return Err("a dictionary as a key".to_owned());
            }
            entries.push((key, value));
        }
        self.stack.truncate(items.start);
        Ok(())
    }

    fn put(&mut self, at: usize) -> Result<(), String> {
        let value = (self.stack.len() > self.floor()).then(|| self.stack.last().copied()).flatten();
        let value = value.ok_or("a value is missing")?;
        // Python takes one place after the other, from 0 or, in its second version, from 1.
        if at > self.memo.len() + 1 {
            return Err(format!("place {at} of the memo after {} others", self.memo.len()));
        }
        if at >= self.memo.len() {
            self.memo.resize(at + 1, None);
        }
        self.memoized += usize::from(self.memo[at].is_none());
        self.memo[at] = Some(value);
        Ok(())
    }

    fn fetch(&mut self, at: usize) -> Result<(), String> {
        let value = self.memo.get(at).copied().flatten();
        self.stack.push(value.ok_or_else(|| format!("place {at} of the memo is empty"))?);
        Ok(())
    }
}

/// A file may have so many dictionaries, and marks at a time.
const MOST: usize = 1000;

fn check_count(what: &str, count: usize) -> Result<(), String> {
    if count < MOST { Ok(()) } else { Err(format!("more than {MOST} {what}")) }
}

/// Why an instruction is not followed.
fn refusal(code: u8) -> String {
    let runs = |name: &str| {
        format!(
            "instruction {name} (0x{code:02x}) makes Python import names, call functions or build objects, and is not \
             followed"
        )
    };
    let other = |name: &str| {
        format!(
            "instruction {name} (0x{code:02x}) makes something else than dictionaries, strings and whole numbers"
        )
    };
    match code {
        b'c' => runs("GLOBAL"),
        0x93 => runs("STACK_GLOBAL"),
        b'R' => runs("REDUCE"),
        b'b' => runs("BUILD"),
        b'i' => runs("INST"),
        b'o' => runs("OBJ"),
        0x81 => runs("NEWOBJ"),
        0x92 => runs("NEWOBJ_EX"),
        0x82 => runs("EXT1"),
        0x83 => runs("EXT2"),
        0x84 => runs("EXT4"),
        b'P' => runs("PERSID"),
        b'Q' => runs("BINPERSID"),
        0x97 => runs("NEXT_BUFFER"),
        0x98 => runs("READONLY_BUFFER"),
        PROTO => other("PROTO in the middle"),
        b'0' => other("POP"),
        b'1' => other("POP_MARK"),
        b'2' => other("DUP"),
        b'F' => other("FLOAT"),
        b'G' => other("BINFLOAT"),
        b'I' => other("INT"),
        b'L' => other("LONG"),
        0x8a => other("LONG1"),
        0x8b => other("LONG4"),
        b'N' => other("NONE"),
        0x88 => other("NEWTRUE"),
        0x89 => other("NEWFALSE"),
        b'S' => other("STRING"),
        b'T' => other("BINSTRING"),
        b'U' => other("SHORT_BINSTRING"),
        b'B' => other("BINBYTES"),
        b'C' => other("SHORT_BINBYTES"),
        0x8e => other("BINBYTES8"),
        0x96 => other("BYTEARRAY8"),
        b'V' => other("UNICODE"),
        0x8d => other("BINUNICODE8"),
        b'a' => other("APPEND"),
        b'e' => other("APPENDS"),
        b'd' => other("DICT"),
        b'l' => other("LIST"),
        b']' => other("EMPTY_LIST"),
        b't' => other("TUPLE"),
        b')' => other("EMPTY_TUPLE"),
        0x85 => other("TUPLE1"),
        0x86 => other("TUPLE2"),
        0x87 => other("TUPLE3"),
        0x8f => other("EMPTY_SET"),
        0x90 => other("ADDITEMS"),
        0x91 => other("FROZENSET"),
        b'g' => other("GET"),
        b'p' => other("PUT"),
        _ => format!("byte 0x{code:02x} is no instruction of a pickle"),
    }
}
