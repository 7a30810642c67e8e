//! A writer of files that need not be sound.

/// A string with its length.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// An entry of the metadata.
pub(super) fn key(name: &str, of: u32, value: &[u8]) -> Vec<u8> {
    [&string(name), &of.to_le_bytes()[..], value].concat()
}

/// An array: the type of its elements, how many it claims to have, and what follows.
pub(super) fn array(of: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&of.to_le_bytes(), &count.to_le_bytes()[..], elements].concat()
}

/// A tensor's entry.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: &'static str,
    pub(super) dims: Vec<u64>,
    pub(super) of: u32,
    pub(super) offset: u64,
    /// Of its data, which are bytes of its name's first letter.
    pub(super) size: usize,
}

/// A file, field by field.
pub(super) struct File {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    /// What the header says instead of the number of tensors and keys that there are.
    pub(super) n_tensors: Option<u64>,
    pub(super) n_keys: Option<u64>,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) alignment: usize,
    /// What follows the last tensor's data.
    pub(super) end: Vec<u8>,
}

impl File {
    /// One that can be read: `a` is F32 (2, 3), `b` Q8_0 (2, 32), `c` BF16 (5).
    pub(super) fn sound() -> Self {
        let tensor =
            |name, dims: &[u64], of, offset, size| Tensor { name, dims: dims.to_vec(), of, offset, size };
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![
                key("general.architecture", 8, &string("rwkv7")),
                key("tokenizer.ggml.tokens", 9, &array(8, 2, &[string("<s>"), string("a")].concat())),
            ],
            tensors: vec![
                tensor("a", &[3, 2], 0, 0, 24),
                tensor("b", &[32, 2], 8, 32, 68),
                tensor("c", &[5], 30, 128, 10),
            ],
            alignment: 32,
            end: Vec::new(),
        }
    }

    /// The same with another alignment.
    pub(super) fn aligned(mut self, alignment: u32) -> Self {
        self.keys.push(key("general.alignment", 4, &alignment.to_le_bytes()));
        self.alignment = alignment as usize;
        let mut offset = 0_usize;
        for tensor in &mut self.tensors {
            tensor.offset = offset as u64;
            offset = (offset + tensor.size).next_multiple_of(self.alignment);
        }
        self
    }

    /// The same with a further key.
    pub(super) fn with(mut self, key: Vec<u8>) -> Self {
        self.keys.push(key);
        self
    }

    /// The same with another tensor of this index.
    pub(super) fn change(mut self, index: usize, change: impl FnOnce(&mut Tensor)) -> Self {
        change(&mut self.tensors[index]);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        for tensor in &self.tensors {
            bytes.extend(string(tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.of.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.resize(
                bytes.len() + tensor.size,
                tensor.name.as_bytes().first().copied().unwrap_or_default(),
            );
        }
        bytes.extend(&self.end);
        bytes
    }
}
