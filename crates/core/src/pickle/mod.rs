//! A reader of pickles as data.
//!
//! A pickle is a program for a small stack machine, and some of its instructions import names, call functions
//! or build objects: whoever reads one with Python runs what is in it. Here the instructions of protocols 2
//! to 5 that make dictionaries, lists, tuples, strings and numbers are followed. A name that the pickle would
//! have Python import is kept as a name if the caller knows it, and refused by that name if not; a call of
//! such a name is kept as the name and its arguments. Nothing is executed. Every other instruction is refused
//! by its own name. Facts from CPython's `Lib/pickletools.py`.

pub mod codes;
mod leaf;
mod machine;

/// What is wrong.
#[derive(Debug)]
pub struct Problem {
    /// At which byte of the pickle.
    pub at: usize,
    /// What it is.
    pub what: String,
    /// What Python would have imported or called, if that is it.
    pub name: Option<String>,
}

/// What a pickle may hold besides dictionaries, lists, tuples, strings and numbers.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Functions, such as `torch._utils._rebuild_tensor_v2`, of which calls are kept. A call of
    /// `collections.OrderedDict` without arguments is an empty dictionary.
    pub functions: &'static [&'static str],
    /// Other names, such as those of classes, which are kept as what they are called.
    pub names: &'static [&'static str],
    /// Attributes that dictionaries may have. They are left out.
    pub attributes: &'static [&'static str],
    /// Whether it may refer to what is outside of it.
    pub persistent: bool,
}

impl Known {
    /// Plain data.
    pub const NOTHING: Self = Self { functions: &[], names: &[], attributes: &[], persistent: false };
}

/// A value; small, because what belongs to it is elsewhere: one that is there many times takes no more than
/// its references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number: which one was of no use to anybody so far.
    Float,
    /// Where in the pickle a string's UTF-8 is. It was found to be that.
    Text(usize, usize),
    /// Which of the dictionaries.
    Dict(usize),
    /// Which of the lists.
    List(usize),
    /// Where the tuples' values are.
    Tuple(usize, usize),
    /// One of [`Known::names`] or [`Known::functions`].
    Name(&'static str),
    /// Which of the calls.
    Call(usize),
    /// Which of the references to something outside.
    Persistent(usize),
}

/// A pickle's result.
#[derive(Debug, Default)]
pub struct Pickle<'a> {
    bytes: &'a [u8],
    dicts: Vec<Vec<(Value, Value)>>,
    lists: Vec<Vec<Value>>,
    /// All tuples, one after the other.
    tuples: Vec<Value>,
    calls: Vec<(&'static str, Value)>,
    persistent: Vec<Value>,
    result: Option<Value>,
}

impl Pickle<'_> {
    /// What the pickle makes.
    pub fn result(&self) -> Value {
        self.result.unwrap_or(Value::None)
    }

    /// A string.
    pub fn text(&self, value: Value) -> Option<&str> {
        let Value::Text(from, to) = value else { return None };
        std::str::from_utf8(self.bytes.get(from..to)?).ok()
    }

    /// What a dictionary has under a string.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut entries = self.entries(dict)?.iter();
        entries.find(|(name, _)| self.text(*name) == Some(key)).map(|&(_, value)| value)
    }

    /// What a dictionary has, in the order in which it was put there; a key may be there twice.
    pub fn entries(&self, dict: Value) -> Option<&[(Value, Value)]> {
        let Value::Dict(dict) = dict else { return None };
        self.dicts.get(dict).map(Vec::as_slice)
    }

    /// What a tuple has.
    pub fn tuple(&self, value: Value) -> Option<&[Value]> {
        let Value::Tuple(from, to) = value else { return None };
        self.tuples.get(from..to)
    }

    /// The function of a call, and its arguments.
    pub fn call(&self, value: Value) -> Option<(&'static str, &[Value])> {
        let Value::Call(call) = value else { return None };
        let &(function, arguments) = self.calls.get(call)?;
        Some((function, self.tuple(arguments)?))
    }

    /// What stands for something outside.
    pub fn persistent(&self, value: Value) -> Option<Value> {
        let Value::Persistent(at) = value else { return None };
        self.persistent.get(at).copied()
    }
}

/// Reads a pickle. What is made of it takes some 50 times its bytes at most, so that the caller should know
/// that it is not too long.
pub fn read(bytes: &[u8], known: Known) -> Result<Pickle<'_>, Problem> {
    machine::run(bytes, known)
}
