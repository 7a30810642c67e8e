//! Model files that are sound but for a few edits, so that what is behind the first checks is reached too.

use arbitrary::{Arbitrary, Unstructured};
use half::f16;
use rwkv_core::model::Network;
use rwkv_core::{DataType, ModelConfig};

/// The first four bytes of a model file.
const MAGIC: &[u8; 4] = b"fmgg";

/// No file is made longer than this.
const MOST: usize = 1 << 18;

/// The bytes of a model file: `data` itself if it begins like one, else what `data` says in terms of a sound
/// file and edits to it.
pub fn bytes(data: &[u8]) -> Vec<u8> {
    if data.starts_with(MAGIC) {
        return data.to_owned();
    }
    let recipe = Recipe::arbitrary(&mut Unstructured::new(data)).unwrap_or_default();
    let mut file = Pieces::sound(&recipe.shape.config(), recipe.shape.data_type(), recipe.shape.version());
    for edit in recipe.edits.iter().take(12) {
        edit.apply(&mut file);
    }
    file.bytes()
}

/// A sound file of `data_type`.
pub fn sound(config: &ModelConfig, data_type: DataType) -> Vec<u8> {
    Pieces::sound(config, data_type, 101).bytes()
}

/// A model of one or two layers; `n_embd` is 32 where weights are in blocks of as many.
pub fn config(n_vocab: usize, n_embd: usize, n_layer: usize, n_ffn: usize) -> ModelConfig {
    ModelConfig { n_ffn, ..ModelConfig::v4(n_vocab, n_embd, n_layer) }
}

#[derive(Debug, Default, Arbitrary)]
struct Recipe {
    shape: Shape,
    edits: Vec<Edit>,
}

#[derive(Debug, Default, Arbitrary)]
struct Shape {
    data_type: u8,
    flags: u8,
}

impl Shape {
    fn data_type(&self) -> DataType {
        DataType::ALL[self.data_type as usize % DataType::ALL.len()]
    }

    fn config(&self) -> ModelConfig {
        let n_embd = if self.data_type().is_quantized() || self.flags & 1 == 1 { 32 } else { 4 };
        let n_ffn = if self.flags & 4 == 4 { 2 * n_embd } else { n_embd };
        config(3 + usize::from(self.flags >> 5), n_embd, 1 + usize::from(self.flags >> 1 & 1), n_ffn)
    }

    fn version(&self) -> u32 {
        if self.flags & 8 == 8 && !self.data_type().is_quantized() { 100 } else { 101 }
    }
}

/// Numbers that are wrong in the ways that numbers are.
#[derive(Debug, Arbitrary)]
enum Number {
    Small(u8),
    Any(u32),
    /// A power of two and its neighbours.
    Power(u8, i8),
}

impl Number {
    fn get(&self) -> u32 {
        match *self {
            Self::Small(value) => value.into(),
            Self::Any(value) => value,
            Self::Power(power, more) => 1_u32.rotate_left(power.into()).wrapping_add_signed(more.into()),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Weight {
    Nan,
    Infinity(bool),
    /// The largest numbers.
    Huge(bool),
    Tiny,
    Bits(u32),
}

impl Weight {
    fn get(&self) -> f32 {
        match *self {
            Self::Nan => f32::NAN,
            Self::Infinity(false) => f32::INFINITY,
            Self::Infinity(true) => f32::NEG_INFINITY,
            Self::Huge(false) => f32::MAX,
            Self::Huge(true) => f32::MIN,
            Self::Tiny => f32::from_bits(1),
            Self::Bits(bits) => f32::from_bits(bits),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Name {
    /// One that a model of this or another version has.
    Known(u8),
    Bytes(Vec<u8>),
    OfLayer(u16),
}

impl Name {
    fn get(&self) -> Vec<u8> {
        const KNOWN: [&str; 12] = [
            "emb.weight",
            "head.weight",
            "ln_out.bias",
            "blocks.0.ffn.key.weight",
            "blocks.0.att.key.weight",
            "blocks.1.att.key.weight",
            "blocks.0.att.time_decay",
            "blocks.0.att.r_k",
            "blocks.0.att.time_maa_x",
            "blocks.0.att.ln_x.weight",
            "blocks.0.att.gate.weight",
            "blocks.0.att.w1",
        ];
        match self {
            Self::Known(index) => KNOWN[*index as usize % KNOWN.len()].into(),
            Self::Bytes(bytes) => bytes[..bytes.len().min(300)].to_vec(),
            Self::OfLayer(layer) => format!("blocks.{layer}.att.key.weight").into(),
        }
    }
}

/// A change to a file; tensors are counted round and round.
#[derive(Debug, Arbitrary)]
enum Edit {
    Header { field: u8, to: Number },
    DimCount { tensor: u8, to: Number },
    NameLen { tensor: u8, to: Number },
    DataType { tensor: u8, to: u8, fit: bool },
    Dim { tensor: u8, dim: u8, to: Number, fit: bool },
    Dims { tensor: u8, dims: [u8; 3], count: u8 },
    Name { tensor: u8, to: Name },
    Weight { tensor: u8, at: u16, to: Weight },
    Fill { tensor: u8, to: Weight },
    Len { tensor: u8, to: u16 },
    Remove(u8),
    Swap(u8, u8),
    Copy { of: u8, name: Name },
    Layers(u8),
    Cut(u16),
    Tail(Vec<u8>),
}

impl Edit {
    fn apply(&self, file: &mut Pieces) {
        if let Self::Header { field, to } = self {
            let count = file.header.len();
            file.header[*field as usize % count] = to.get();
            return;
        }
        match self {
            Self::Cut(bytes) => file.cut = usize::from(*bytes),
            Self::Tail(bytes) => file.tail.extend(&bytes[..bytes.len().min(64)]),
            Self::Layers(layers) => file.layers(*layers % 5),
            _ if file.tensors.is_empty() => {}
            Self::Remove(tensor) => {
                file.tensors.remove(file.index(*tensor));
            }
            Self::Swap(a, b) => {
                let (a, b) = (file.index(*a), file.index(*b));
                file.tensors.swap(a, b);
            }
            Self::Copy { of, name } => {
                let mut tensor = file.tensors[file.index(*of)].clone();
                tensor.rename(name.get());
                file.tensors.push(tensor);
            }
            _ => self.change(file),
        }
    }

    /// Edits within a tensor.
    fn change(&self, file: &mut Pieces) {
        let (Self::DimCount { tensor, .. }
        | Self::NameLen { tensor, .. }
        | Self::DataType { tensor, .. }
        | Self::Dim { tensor, .. }
        | Self::Dims { tensor, .. }
        | Self::Name { tensor, .. }
        | Self::Weight { tensor, .. }
        | Self::Fill { tensor, .. }
        | Self::Len { tensor, .. }) = self
        else {
            return;
        };
        let index = file.index(*tensor);
        let tensor = &mut file.tensors[index];
        match self {
            Self::DimCount { to, .. } => tensor.dim_count = to.get(),
            Self::NameLen { to, .. } => tensor.name_len = to.get(),
            Self::DataType { to, fit, .. } => {
                tensor.data_type = (*to % 12).into();
                tensor.fit(*fit);
            }
            Self::Dim { dim, to, fit, .. } => {
                let count = tensor.dims.len().max(1);
                if let Some(dim) = tensor.dims.get_mut(*dim as usize % count) {
                    *dim = to.get();
                }
                tensor.fit(*fit);
            }
            Self::Dims { dims, count, .. } => {
                tensor.dims = dims[..usize::from(count % 4)].iter().map(|&dim| dim.into()).collect();
                tensor.dim_count = tensor.dims.len() as u32;
                tensor.fit(true);
            }
            Self::Name { to, .. } => tensor.rename(to.get()),
            Self::Weight { at, to, .. } => tensor.set(usize::from(*at), to.get()),
            Self::Fill { to, .. } => (0..tensor.data.len() / 2).for_each(|at| tensor.set(at, to.get())),
            Self::Len { to, .. } => tensor.data.resize(usize::from(*to), 0x3c),
            _ => {}
        }
    }
}

/// The number that stands for a format of model files.
fn code(data_type: DataType) -> u32 {
    data_type.code().expect("a format of these files")
}

/// A model file in pieces, each written as it is, right or wrong.
struct Pieces {
    header: [u32; 6],
    tensors: Vec<Tensor>,
    /// Bytes after the last tensor.
    tail: Vec<u8>,
    /// Bytes cut off at the end.
    cut: usize,
}

#[derive(Clone)]
struct Tensor {
    dim_count: u32,
    name_len: u32,
    data_type: u32,
    dims: Vec<u32>,
    name: Vec<u8>,
    data: Vec<u8>,
}

impl Pieces {
    fn sound(config: &ModelConfig, data_type: DataType, version: u32) -> Self {
        let (_, layout, _) = Network::new(config);
        let mut tensors = Vec::new();
        for spec in layout.specs() {
            let copied = !spec.is_matrix() || matches!(spec.name.as_str(), "emb.weight" | "head.weight");
            // As the quantizer has it: vectors, embedding and head keep their format.
            let data_type = match data_type {
                DataType::F16 if !spec.is_matrix() => DataType::F32,
                quantized if quantized.is_quantized() && copied => DataType::F32,
                data_type => data_type,
            };
            let name = spec.name.clone().into_bytes();
            let dims: Vec<_> = spec.dims.iter().map(|&dim| dim as u32).collect();
            tensors.push(Tensor {
                dim_count: dims.len() as u32,
                name_len: name.len() as u32,
                data_type: code(data_type),
                data: values(data_type, spec.len(), tensors.len()),
                dims,
                name,
            });
        }
        let [n_vocab, n_embd, n_layer] = [config.n_vocab, config.n_embd, config.n_layer].map(|n| n as u32);
        let magic = u32::from_le_bytes(*MAGIC);
        let header = [magic, version, n_vocab, n_embd, n_layer, code(data_type)];
        Self { header, tensors, tail: Vec::new(), cut: 0 }
    }

    fn index(&self, tensor: u8) -> usize {
        tensor as usize % self.tensors.len()
    }

    /// Adds the tensors of layer 0 again as those of `layers` further ones, and says so in the header.
    fn layers(&mut self, layers: u8) {
        let first: Vec<_> =
            self.tensors.iter().filter(|tensor| tensor.name.starts_with(b"blocks.0.")).cloned().collect();
        for layer in 0..layers {
            let layer = self.header[4] + u32::from(layer);
            for tensor in &first {
                let mut tensor = tensor.clone();
                let name = [format!("blocks.{layer}.").as_bytes(), &tensor.name[9..]].concat();
                tensor.rename(name);
                self.tensors.push(tensor);
            }
        }
        self.header[4] = self.header[4].wrapping_add(layers.into());
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let numbers = |bytes: &mut Vec<u8>, numbers: &[u32]| {
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        };
        numbers(&mut bytes, &self.header);
        for tensor in &self.tensors {
            numbers(&mut bytes, &[tensor.dim_count, tensor.name_len, tensor.data_type]);
            numbers(&mut bytes, &tensor.dims);
            bytes.extend(&tensor.name);
            bytes.extend(&tensor.data);
        }
        bytes.extend(&self.tail);
        bytes.truncate(bytes.len().saturating_sub(self.cut).min(MOST));
        bytes
    }
}

impl Tensor {
    fn rename(&mut self, name: Vec<u8>) {
        self.name_len = name.len() as u32;
        self.name = name;
    }

    /// Gives the tensor the data that its type and dimensions ask for, if that is wanted and not too much.
    fn fit(&mut self, wanted: bool) {
        let Some(data_type) = DataType::from_code(self.data_type).filter(|_| wanted) else {
            return;
        };
        let count = self.dims.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim.into()));
        if let Some(count) = count.filter(|&count| count <= 1 << 15) {
            self.data = values(data_type, count as usize, 7);
        }
    }

    /// Writes a value in the tensor's own format; of a block, its scale.
    fn set(&mut self, at: usize, value: f32) {
        let half = f16::from_f32(value).to_le_bytes();
        let (size, bytes) = match DataType::from_code(self.data_type) {
            Some(DataType::F32) | None => (4, value.to_le_bytes().to_vec()),
            Some(data_type) => (data_type.block().1, half.to_vec()),
        };
        let count = (self.data.len() / size).max(1);
        let at = at % count * size;
        if let Some(place) = self.data.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// Values between −1 and 0, and blocks with small scales.
fn values(data_type: DataType, count: usize, seed: usize) -> Vec<u8> {
    let value = |i: usize| -(((i + seed) * 37 % 101) as f32) / 101.0;
    match data_type {
        DataType::F32 => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
        DataType::F16 => (0..count).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect(),
        _ => {
            let (weights, size) = data_type.block();
            let scale = f16::from_f32(0.01).to_le_bytes();
            let halves = match data_type {
                DataType::Q4_1 | DataType::Q5_1 => 2,
                _ => 1,
            };
            let block = |block: usize| {
                (0..size).map(move |at| {
                    if at < 2 * halves { scale[at % 2] } else { ((block * 31 + at * 57 + seed) % 251) as u8 }
                })
            };
            (0..count.div_ceil(weights)).flat_map(block).collect()
        }
    }
}
