//! The stack machine, which makes data.

use std::ops::Range;

use super::codes::{
    APPEND, APPENDS, BINGET, BINPERSID, BINPUT, BUILD, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, FRAME, GLOBAL,
    LONG_BINGET, LONG_BINPUT, MARK, MEMOIZE, PROTO, REDUCE, SETITEM, SETITEMS, STACK_GLOBAL, STOP, TUPLE,
    TUPLE1, TUPLE2, TUPLE3,
};
use super::{Known, Pickle, Problem, Value};

/// So many marks may be open at a time.
const MOST_MARKS: usize = 1000;

/// A pickle may make so many dictionaries and lists: an empty one takes many times its instruction's byte.
/// PyTorch makes a dictionary for each tensor.
const MOST_CONTAINERS: usize = 1 << 17;

/// Called without arguments, it makes an empty dictionary.
const ORDERED_DICT: &str = "collections.OrderedDict";

/// What is wrong with an instruction, and the name that it is about if it is about one.
pub(super) struct Refused(String, Option<String>);

impl<S: Into<String>> From<S> for Refused {
    fn from(what: S) -> Self {
        Self(what.into(), None)
    }
}

pub(super) fn run(bytes: &[u8], known: Known) -> Result<Pickle<'_>, Problem> {
    let wrong = |at, what| Problem { at, what, name: None };
    match bytes {
        [PROTO, 2..=5, ..] => {}
        [PROTO, protocol, ..] => {
            return Err(wrong(1, format!("protocol {protocol} of pickle; expected 2 to 5")));
        }
        _ => return Err(wrong(0, "this is no pickle of protocol 2 to 5".to_owned())),
    }
    let made = Pickle { bytes, ..Pickle::default() };
    let (stack, marks, memo) = (Vec::new(), Vec::new(), Vec::new());
    let mut machine = Machine { known, at: 2, stack, marks, memo, memoized: 0, made };
    loop {
        let at = machine.at;
        let problem = |Refused(what, name)| Problem { at, what, name };
        let [code] = machine.take().map_err(problem)?;
        if code == STOP {
            break;
        }
        machine.step(code).map_err(problem)?;
    }
    let Machine { at, stack, marks, made, .. } = machine;
    let &[result] = &stack[..] else {
        return Err(wrong(at - 1, format!("{} values are left at the end; expected one", stack.len())));
    };
    if !marks.is_empty() {
        return Err(wrong(at - 1, "a mark is left at the end".to_owned()));
    }
    if at != bytes.len() {
        return Err(wrong(at, format!("{} bytes follow the end of the pickle", bytes.len() - at)));
    }
    Ok(Pickle { result: Some(result), ..made })
}

pub(super) struct Machine<'a> {
    known: Known,
    pub(super) at: usize,
    pub(super) stack: Vec<Value>,
    /// The stack's length at each mark.
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    /// How many of the memo's places are taken.
    memoized: usize,
    pub(super) made: Pickle<'a>,
}

impl Machine<'_> {
    /// Follows one instruction whose code was read.
    fn step(&mut self, code: u8) -> Result<(), Refused> {
        match code {
            FRAME => {
                let len = u64::from_le_bytes(self.take()?);
                let left = self.made.bytes.len() - self.at;
                if len > left as u64 {
                    return Err(format!("a frame of {len} bytes is announced; {left} are left").into());
                }
            }
            MARK => {
                if self.marks.len() >= MOST_MARKS {
                    return Err(format!("more than {MOST_MARKS} marks").into());
                }
                self.marks.push(self.stack.len());
            }
            EMPTY_DICT => self.dict()?,
            SETITEM => {
                let from = self.last(2)?;
                self.set_items(from..self.stack.len())?;
            }
            SETITEMS => {
                let from = self.mark()?;
                self.set_items(from..self.stack.len())?;
            }
            EMPTY_LIST => {
                self.check_containers()?;
                self.stack.push(Value::List(self.made.lists.len()));
                self.made.lists.push(Vec::new());
            }
            APPEND => {
                let from = self.last(1)?;
                self.append(from)?;
            }
            APPENDS => {
                let from = self.mark()?;
                self.append(from)?;
            }
            EMPTY_TUPLE => self.tuple(self.stack.len()),
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let from = self.last(usize::from(code - TUPLE1) + 1)?;
                self.tuple(from);
            }
            TUPLE => {
                let from = self.mark()?;
                self.tuple(from);
            }
            MEMOIZE => self.put(self.memoized)?,
            BINPUT => {
                let [at] = self.take()?;
                self.put(at.into())?;
            }
            LONG_BINPUT => {
                let at = u32::from_le_bytes(self.take()?);
                self.put(at as usize)?;
            }
            BINGET => {
                let [at] = self.take()?;
                self.fetch(at.into())?;
            }
            LONG_BINGET => {
                let at = u32::from_le_bytes(self.take()?);
                self.fetch(at as usize)?;
            }
            GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.name("GLOBAL", code, module, name)?;
            }
            STACK_GLOBAL => {
                let from = self.last(2)?;
                let text = |value| match value {
                    Value::Text(from, to) => std::str::from_utf8(&self.made.bytes[from..to]).ok(),
                    _ => None,
                };
                let (module, name) = (text(self.stack[from]), text(self.stack[from + 1]));
                self.stack.truncate(from);
                match (module, name) {
                    (Some(module), Some(name)) => self.name("STACK_GLOBAL", code, module, name)?,
                    _ => return Err("instruction STACK_GLOBAL (0x93) without two strings".into()),
                }
            }
            REDUCE => self.reduce()?,
            BUILD => self.build()?,
            BINPERSID if self.known.persistent => {
                let from = self.last(1)?;
                self.made.persistent.push(self.stack[from]);
                self.stack[from] = Value::Persistent(self.made.persistent.len() - 1);
            }
            _ => self.leaf(code)?,
        }
        Ok(())
    }

    /// The part of the stack that belongs to the last mark begins here.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// Where the last `count` values begin.
    fn last(&self, count: usize) -> Result<usize, Refused> {
        let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
        from.ok_or_else(|| "a value is missing".into())
    }

    /// Where the values since the last mark begin. The mark is gone then.
    fn mark(&mut self) -> Result<usize, Refused> {
        self.marks.pop().ok_or_else(|| "a mark is missing".into())
    }

    fn check_containers(&self) -> Result<(), Refused> {
        if self.made.dicts.len() + self.made.lists.len() >= MOST_CONTAINERS {
            return Err(format!("more than {MOST_CONTAINERS} dictionaries and lists").into());
        }
        Ok(())
    }

    fn dict(&mut self) -> Result<(), Refused> {
        self.check_containers()?;
        self.stack.push(Value::Dict(self.made.dicts.len()));
        self.made.dicts.push(Vec::new());
        Ok(())
    }

    fn tuple(&mut self, from: usize) {
        let begin = self.made.tuples.len();
        self.made.tuples.extend(self.stack.drain(from..));
        self.stack.push(Value::Tuple(begin, self.made.tuples.len()));
    }

    /// What is on the stack below `from`, where values for it begin.
    fn below(&self, from: usize) -> Option<Value> {
        let at = from.checked_sub(1).filter(|&at| at >= self.floor())?;
        self.stack.get(at).copied()
    }

    /// Puts values from the stack into the list below them.
    fn append(&mut self, from: usize) -> Result<(), Refused> {
        let Some(Value::List(list)) = self.below(from) else { return Err("items without a list".into()) };
        self.made.lists[list].extend(self.stack.drain(from..));
        Ok(())
    }

    /// Puts keys and values from the stack into the dictionary below them.
    fn set_items(&mut self, items: Range<usize>) -> Result<(), Refused> {
        let Some(Value::Dict(dict)) = self.below(items.start) else {
            return Err("items without a dictionary".into());
        };
        let (pairs, rest) = self.stack[items.clone()].as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key without a value".into());
        }
        for &[key, value] in pairs {
            if let Value::Dict(_) | Value::List(_) = key {
                return Err("a dictionary as a key, or a list".into());
            }
            self.made.dicts[dict].push((key, value));
        }
        self.stack.truncate(items.start);
        Ok(())
    }

    fn put(&mut self, at: usize) -> Result<(), Refused> {
        let value = self.stack[self.last(1)?];
        // Python takes one place after the other, from 0 or, in its second version, from 1.
        if at > self.memo.len() + 1 {
            return Err(format!("place {at} of the memo after {} others", self.memo.len()).into());
        }
        if at >= self.memo.len() {
            self.memo.resize(at + 1, None);
        }
        self.memoized += usize::from(self.memo[at].is_none());
        self.memo[at] = Some(value);
        Ok(())
    }

    fn fetch(&mut self, at: usize) -> Result<(), Refused> {
        let value = self.memo.get(at).copied().flatten();
        self.stack.push(value.ok_or_else(|| format!("place {at} of the memo is empty"))?);
        Ok(())
    }

    /// Keeps a name that the caller knows.
    fn name(&mut self, instruction: &str, code: u8, module: &str, name: &str) -> Result<(), Refused> {
        let is_it =
            |known: &&&str| known.strip_prefix(module).and_then(|n| n.strip_prefix('.')) == Some(name);
        let known = self.known.functions.iter().chain(self.known.names).find(is_it);
        let Some(known) = known else {
            // It is somebody's text: no control characters, and no pages of it.
            let full = shown(module) + "." + &shown(name);
            let what = format!(
                "instruction {instruction} (0x{code:02x}) would have Python import {full}: not followed"
            );
            return Err(Refused(what, Some(full)));
        };
        self.stack.push(Value::Name(known));
        Ok(())
    }

    /// Keeps a call of a function that the caller knows.
    fn reduce(&mut self) -> Result<(), Refused> {
        let from = self.last(2)?;
        let (function, arguments) = (self.stack[from], self.stack[from + 1]);
        let (Value::Name(function), Value::Tuple(first, end)) = (function, arguments) else {
            return Err("instruction REDUCE (0x52) without a function and its arguments: not followed".into());
        };
        self.stack.truncate(from);
        let known = self.known.functions.contains(&function);
        match function {
            ORDERED_DICT if known && first == end => self.dict()?,
            _ if known && function != ORDERED_DICT => {
                self.stack.push(Value::Call(self.made.calls.len()));
                self.made.calls.push((function, arguments));
            }
            _ => {
                let with = end - first;
                let what = format!(
                    "instruction REDUCE (0x52) would have Python call {function} with {with} arguments: not followed"
                );
                return Err(Refused(what, Some(function.to_owned())));
            }
        }
        Ok(())
    }

    /// Leaves out attributes of a dictionary that the caller knows.
    fn build(&mut self) -> Result<(), Refused> {
        let from = self.last(2)?;
        let (object, state) = (self.stack[from], self.stack[from + 1]);
        if let Value::Dict(_) = object
            && let Some(attributes) = self.made.entries(state)
        {
            // No more are looked at than are known: the same ones may be given again and again.
            let names = attributes.iter().map(|&(key, _)| self.made.text(key).unwrap_or(""));
            let known = self.known.attributes;
            let Some(unknown) = names.take(known.len() + 1).find(|name| !known.contains(name)) else {
                if attributes.len() > known.len() {
                    return Err("instruction BUILD (0x62) would set an attribute twice: not followed".into());
                }
                self.stack.truncate(from + 1);
                return Ok(());
            };
            let what = format!(
                "instruction BUILD (0x62) would set the attribute \"{}\" of a dictionary: not followed",
                shown(unknown)
            );
            return Err(what.into());
        }
        Err("instruction BUILD (0x62) would set the state of an object: not followed".into())
    }
}

/// A text of the file's, for messages.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
