//! From the pickle to the tensors that it describes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::archive::{Archive, Entry};
use super::{GET_IT_AGAIN, TensorInfo, fault, unsupported};
use crate::data_type::DataType;
use crate::error::{Error, Fault, Result};
use crate::pickle::{self, Known, Pickle, Problem, Value};

const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const PARAMETER: &str = "torch._utils._rebuild_parameter";

/// What a state dictionary consists of.
const KNOWN: Known = Known {
    functions: &["collections.OrderedDict", TENSOR, PARAMETER],
    names: &[
        "torch.FloatStorage",
        "torch.HalfStorage",
        "torch.BFloat16Storage",
        "torch.DoubleStorage",
        "torch.LongStorage",
        "torch.IntStorage",
        "torch.ShortStorage",
        "torch.CharStorage",
        "torch.ByteStorage",
        "torch.BoolStorage",
    ],
    // `Module.state_dict` adds the versions of its modules.
    attributes: &["_metadata"],
    persistent: true,
};

/// The longest name of any published model has 32 bytes.
const MAX_NAME: usize = 256;

/// What to save.
const STATE_DICT: &str = "save its tensors alone: torch.save(model.state_dict(), \"new.pth\")";

/// Reads the tensors of the pickle at `range` of the file.
pub(super) fn read(
    path: &Path,
    bytes: &[u8],
    archive: &Archive,
    prefix: &str,
    range: Range<usize>,
) -> Result<Vec<TensorInfo>> {
    let start = range.start;
    let pickle = pickle::read(&bytes[range], KNOWN).map_err(|problem| refusal(path, start, problem))?;
    let mut reader = Reader { path, archive, prefix, pickle: &pickle, start, storages: HashMap::new() };
    let tensors = reader.tensors()?;
    check_shared(path, &tensors)?;
    Ok(tensors.into_iter().map(|(tensor, _)| tensor).collect())
}

/// What a pickle gets that is damaged, or would run something.
fn refusal(path: &Path, start: usize, Problem { at, what, name }: Problem) -> Error {
    let advice = match name.as_deref() {
        None => GET_IT_AGAIN.to_owned(),
        Some("torch._utils._rebuild_parameter_with_state") => {
            "a parameter has attributes of its own; save the values alone: \
             torch.save({name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, \"new.pth\")"
                .to_owned()
        }
        Some(name) if name.starts_with("torch.") => {
            "a model file has plain tensors of float32, float16 or bfloat16 and nothing else; save them as such: \
             torch.save({name: tensor.float() for name, tensor in model.state_dict().items()}, \"new.pth\")"
                .to_owned()
        }
        Some(_) => format!(
            "a model file has tensors and nothing else, and Python would run what this one names: do not load it there \
             unless you trust where it is from; if you do, {STATE_DICT}"
        ),
    };
    fault(path, None, start + at, format!("the file's pickle: {what}; {advice}"))
}

pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    archive: &'a Archive,
    /// The folder of the zip's entries, with its slash.
    prefix: &'a str,
    pickle: &'a Pickle<'a>,
    /// Where in the file the pickle begins.
    start: usize,
    /// The type of the values in each entry that was seen, by where it begins.
    storages: HashMap<usize, DataType>,
}

/// Where an error is: a tensor's name, and where in the file that stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// All tensors, and of each whether it is all of its storage.
    fn tensors(&mut self) -> Result<Vec<(TensorInfo, bool)>> {
        let result = self.pickle.result();
        let Some(entries) = self.pickle.entries(result) else {
            let what = format!(
                "it holds {}, not a dictionary from names to tensors; {STATE_DICT}",
                self.description(result)
            );
            return Err(unsupported(self.path, what));
        };
        for key in ["_strategy", "_version", "_rescale_layer"] {
            if self.pickle.get(result, key).is_some() {
                let what = format!(
                    "this file was converted by the Python package rwkv (it has {key:?}), which changes weights for one way \
                     to run them; use the original model"
                );
                return Err(unsupported(self.path, what));
            }
        }
        if entries.is_empty() {
            let problem = "its dictionary is empty; expected names and tensors";
            return Err(fault(self.path, None, self.start, problem).of_kind(Fault::Missing));
        }
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for &(key, value) in entries {
            let place = self.place(key)?;
            if !names.insert(place.name) {
                return Err(self
                    .fault(place, "this name is there twice; expected once")
                    .of_kind(Fault::Name));
            }
            tensors.push(self.tensor(place, value)?);
        }
        Ok(tensors)
    }

    /// A key of the dictionary.
    fn place(&self, key: Value) -> Result<Place<'a>> {
        let (Value::Text(from, _), Some(name)) = (key, self.pickle.text(key)) else {
            let problem =
                format!("a key of its dictionary is {}; expected a tensor's name", self.description(key));
            return Err(fault(self.path, None, self.start, problem).of_kind(Fault::Name));
        };
        let at = self.start + from;
        if !(1..=MAX_NAME).contains(&name.len()) {
            let problem = format!("a tensor's name of {} bytes; expected 1 to {MAX_NAME}", name.len());
            return Err(fault(self.path, None, at, problem).of_kind(Fault::Name));
        }
        Ok(Place { name, at })
    }

    fn tensor(&mut self, place: Place<'_>, value: Value) -> Result<(TensorInfo, bool)> {
        let mut call = self.pickle.call(value);
        if let Some((PARAMETER, arguments)) = call {
            let &[tensor, Value::Bool(_), hooks] = arguments else {
                return Err(self.other(place, PARAMETER, "a tensor, whether it is trained, and no hooks"));
            };
            self.check_hooks(place, hooks)?;
            call = self.pickle.call(tensor);
        }
        let Some((TENSOR, arguments)) = call else { return Err(self.not_a_tensor(place, value)) };
        let &[storage, Value::Int(first), sizes, strides, Value::Bool(_), hooks, ref metadata @ ..] =
            arguments
        else {
            return Err(self.other(place, TENSOR, "a storage, where to begin, sizes, strides, and no hooks"));
        };
        self.check_hooks(place, hooks)?;
        match metadata {
            [] | [Value::None] => {}
            &[metadata] if self.is_empty(metadata) => {}
            [_] => {
                let what = format!(
                    "tensor {:?} has values that are to be negated or conjugated as they are read; save it as \
                     tensor.resolve_neg().resolve_conj()",
                    place.name
                );
                return Err(unsupported(self.path, what).of_kind(Fault::DataType));
            }
            _ => return Err(self.other(place, TENSOR, "7 arguments at most")),
        }
        let (entry, data_type, numel) = self.storage(place, storage)?;
        let (sizes, strides) = (self.pickle.tuple(sizes), self.pickle.tuple(strides));
        let (Some(sizes), Some(strides)) = (sizes, strides) else {
            return Err(self.other(place, TENSOR, "tuples of sizes and strides"));
        };
        let (dims, count) = self.dims(place, sizes)?;
        self.check_strides(place, sizes, strides)?;
        let end = u64::try_from(first).ok().and_then(|first| first.checked_add(count));
        if end.is_none_or(|end| end > numel) {
            let problem = format!(
                "{count} values from number {first} on are outside of its storage, which has {numel}; {GET_IT_AGAIN}"
            );
            return Err(self.fault(place, problem).of_kind(Fault::Shape));
        }
        // The storage is in the file, so its parts are.
        let (_, bytes) = data_type.block();
        let from = entry.data.start + first as usize * bytes;
        let data = from..from + count as usize * bytes;
        let whole = data == entry.data;
        let name = place.name.to_owned();
        Ok((TensorInfo { name, data_type, dims, offset: entry.at, data }, whole))
    }

    /// The entry that a tensor's storage is, the type of its values and how many it has.
    fn storage(&mut self, place: Place<'_>, value: Value) -> Result<(&'a Entry, DataType, u64)> {
        let reference = self.pickle.persistent(value).and_then(|reference| self.pickle.tuple(reference));
        let Some(&[kind, Value::Name(class), key, Value::Text(..), Value::Int(numel)]) = reference else {
            return Err(self.other(place, "its storage", "its kind, type, key, device and number of values"));
        };
        let (Some("storage"), Some(key)) = (self.pickle.text(kind), self.pickle.text(key)) else {
            return Err(self.other(place, "its storage", "\"storage\" and a key"));
        };
        let data_type = self.data_type(place, class)?;
        let name = format!("{}data/{key}", self.prefix);
        let Some(entry) = self.archive.get(&name) else {
            // A key is no longer than the pickle; a message should be.
            let problem = format!("the zip has no entry {name:.100?}, where its values are; {GET_IT_AGAIN}");
            return Err(self.fault(place, problem).of_kind(Fault::Missing));
        };
        let (_, bytes) = data_type.block();
        let size = u64::try_from(numel).ok().and_then(|numel| numel.checked_mul(bytes as u64));
        let len = entry.data.len() as u64;
        if size != Some(len) {
            let problem = format!(
                "its storage of {numel} values of {data_type} is entry {:?} of the zip, which has {len} bytes; expected \
                 {bytes} for each value; {GET_IT_AGAIN}",
                entry.name
            );
            return Err(fault(self.path, Some(place.name), entry.at, problem).of_kind(Fault::Shape));
        }
        let first = *self.storages.entry(entry.at).or_insert(data_type);
        if first != data_type {
            let problem = format!(
                "its storage, entry {:?} of the zip, is {data_type} here and {first} for another tensor; {GET_IT_AGAIN}",
                entry.name
            );
            return Err(self.fault(place, problem).of_kind(Fault::DataType));
        }
        Ok((entry, data_type, numel as u64))
    }

    fn data_type(&self, place: Place<'_>, class: &str) -> Result<DataType> {
        let other = match class {
            "torch.FloatStorage" => return Ok(DataType::F32),
            "torch.HalfStorage" => return Ok(DataType::F16),
            "torch.BFloat16Storage" => return Ok(DataType::BF16),
            "torch.DoubleStorage" => "float64",
            "torch.LongStorage" => "int64",
            "torch.IntStorage" => "int32",
            "torch.ShortStorage" => "int16",
            "torch.CharStorage" => "int8",
            "torch.ByteStorage" => "uint8",
            "torch.BoolStorage" => "bool",
            _ => return Err(self.other(place, "its storage", "a type of storage")),
        };
        let what = format!(
            "tensor {:?} holds values of {other}; expected float32, float16 or bfloat16: save it as tensor.float(), or \
             leave it out if it is no weight",
            place.name
        );
        Err(unsupported(self.path, what).of_kind(Fault::DataType))
    }

    fn is_empty(&self, dict: Value) -> bool {
        self.pickle.entries(dict).is_some_and(<[_]>::is_empty)
    }

    fn check_hooks(&self, place: Place<'_>, hooks: Value) -> Result<()> {
        if self.is_empty(hooks) { Ok(()) } else { Err(self.other(place, "it", "no hooks")) }
    }

    fn not_a_tensor(&self, place: Place<'_>, value: Value) -> Error {
        let name = place.name;
        let is = self.description(value);
        let what = match value {
            Value::Dict(_) => format!(
                "{name:?} is a dictionary in the file's dictionary, not a tensor; if it has the model, save it alone: \
                 torch.save(torch.load(\"old.pth\", map_location=\"cpu\", weights_only=True)[{name:?}], \"new.pth\")"
            ),
            _ => format!("{name:?} is {is}, not a tensor; {STATE_DICT}"),
        };
        unsupported(self.path, what)
    }

    /// A value of the pickle, for messages.
    pub(super) fn description(&self, value: Value) -> String {
        match value {
            Value::None => "None".to_owned(),
            Value::Bool(value) => if value { "True" } else { "False" }.to_owned(),
            Value::Int(number) => format!("the number {number}"),
            Value::Float => "a number".to_owned(),
            Value::Text(..) => "a string".to_owned(),
            Value::Dict(_) => "a dictionary".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Tuple(..) => "a tuple".to_owned(),
            Value::Name(name) => name.to_owned(),
            Value::Call(_) => match self.pickle.call(value) {
                Some((TENSOR | PARAMETER, _)) => "a tensor".to_owned(),
                _ => "an object".to_owned(),
            },
            Value::Persistent(_) => "a storage".to_owned(),
        }
    }

    /// An error about something that is not as PyTorch writes it.
    fn other(&self, place: Place<'_>, what: &str, expected: &str) -> Error {
        self.fault(
            place,
            format!("{what} is not as torch.save writes it; expected {expected}; {GET_IT_AGAIN}"),
        )
    }

    pub(super) fn fault(&self, place: Place<'_>, problem: impl Into<String>) -> Error {
        fault(self.path, Some(place.name), place.at, problem)
    }
}

/// Refuses tensors that share bytes, unless both are all of their storage: weights that are tied.
fn check_shared(path: &Path, tensors: &[(TensorInfo, bool)]) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(tensor, _)| (tensor.data.start, tensor.data.end));
    for two in order.windows(2) {
        let [(before, before_whole), (after, after_whole)] = two else { continue };
        if before.data.end > after.data.start && !(*before_whole && *after_whole) {
            let what = format!(
                "tensors {:?} and {:?} share a part of a storage (at byte {}); save each as tensor.clone()",
                before.name, after.name, after.data.start
            );
            return Err(unsupported(path, what).of_kind(Fault::Shape));
        }
    }
    Ok(())
}
