//! The parameters of a model: declared once, by the model's own file.
//!
//! A model file declares each parameter in a [`Layout`] and keeps the handle that it gets back. The
//! declaration says everything that is particular to a parameter: its name and dimensions in files, how files
//! store it, its initial values, its learning rate relative to the others, and whether weight decay applies.
//! Whoever loads, initialises, optimizes or writes models walks the list and knows no name.

mod initial;

pub use initial::{Channel, Formula, Initial};

/// Handle of a matrix of weights, `(rows, cols)` = (outputs, inputs), row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix(usize);

/// Handle of a vector of one value a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector(usize);

impl Matrix {
    /// Position of the parameter in its [`Layout`].
    pub fn index(self) -> usize {
        self.0
    }
}

impl Vector {
    /// Position of the parameter in its [`Layout`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// How a value in a model file follows from the raw parameter that training changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// As it is.
    #[default]
    Raw,
    /// `−exp(raw)`: v4's `time_decay`.
    NegExp,
}

impl Stored {
    /// The value that a model file holds for a raw parameter.
    pub fn to_file(self, raw: f32) -> f32 {
        match self {
            Self::Raw => raw,
            Self::NegExp => -libm::expf(raw),
        }
    }

    /// The raw parameter for a value of a model file, up to rounding; not finite if no raw parameter has that
    /// value. A value that rounding brought to the end of its range, as the decay of a raw parameter far out,
    /// gives the raw parameter nearest to that end.
    pub fn to_raw(self, stored: f32) -> f32 {
        match self {
            Self::Raw => stored,
            // exp is a normal number, and finite, in this range.
            Self::NegExp if stored <= 0.0 => libm::logf(-stored).clamp(-87.0, 88.0),
            Self::NegExp => f32::NAN,
        }
    }

    /// The derivative of the file's value by the raw one, given the raw one.
    pub fn derivative(self, raw: f32) -> f32 {
        match self {
            Self::Raw => 1.0,
            Self::NegExp => self.to_file(raw),
        }
    }
}

/// The kind of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A [`Matrix`], which model files may hold in half precision or quantized.
    Matrix,
    /// A [`Vector`], which model files hold in FP32 or FP16.
    Vector,
}

/// Training of a parameter: initial values, learning rate, weight decay.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Values before the first step.
    pub initial: Initial,
    /// Factor of the learning rate.
    pub rate: f64,
    /// Whether weight decay applies. None: to matrices only.
    pub decays: Option<bool>,
    /// Whether this is a matrix from activations to activations, as are all but embeddings and heads. None:
    /// if it is a matrix.
    pub is_hidden: Option<bool>,
    /// Whether this is a factor of a product of low rank.
    pub is_low_rank: bool,
}

impl From<Initial> for Learned {
    fn from(initial: Initial) -> Self {
        Self { initial, rate: 1.0, decays: None, is_hidden: None, is_low_rank: false }
    }
}

/// A parameter that shares a tensor of rwkv.cpp's files with others: which of its equal parts it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The tensor's name.
    pub tensor: String,
    /// The part, from 0, in the order of the tensor's values.
    pub index: usize,
    /// Number of parts, all of them parameters that are declared one after the other.
    pub of: usize,
}

/// One parameter: everything that is particular to it.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Name in checkpoints of PyTorch, such as `blocks.0.att.key.weight`; rwkv.cpp's files have the same, but
    /// for parameters that are `packed`.
    pub name: String,
    /// Outputs of a matrix; 1 for a vector.
    pub rows: usize,
    /// Inputs of a matrix; length of a vector.
    pub cols: usize,
    /// Matrix or vector.
    pub role: Role,
    /// Dimensions of the tensor in rwkv.cpp's files: row length first.
    pub dims: Vec<usize>,
    /// Where it is a part of that tensor.
    pub packed: Option<Packed>,
    /// How a file's value follows from the raw one.
    pub stored: Stored,
    /// Values before the first step of training, raw.
    pub initial: Initial,
    /// Factor of the learning rate.
    pub rate: f64,
    /// Whether weight decay applies.
    pub decays: bool,
    /// Whether this is a matrix from activations to activations: optimizers may treat those in their own way.
    pub is_hidden: bool,
    /// Whether this is a factor of a product of low rank, which needs no adapter: it is one.
    pub is_low_rank: bool,
}

impl ParamSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is the embedding, of which rows are looked up and which is multiplied with nothing: files
    /// of all versions call it by one name.
    pub fn is_embedding(&self) -> bool {
        self.name == "emb.weight"
    }

    /// Whether this is a [`Matrix`].
    pub fn is_matrix(&self) -> bool {
        self.role == Role::Matrix
    }

    /// The name of the tensor that holds it in rwkv.cpp's files.
    pub fn tensor(&self) -> &str {
        self.packed.as_ref().map_or(&self.name, |packed| &packed.tensor)
    }
}

/// The parameters of a model, in the order in which files list them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    specs: Vec<ParamSpec>,
}

impl Layout {
    /// Declares a matrix that maps `cols` inputs to `rows` outputs.
    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        rows: usize,
        cols: usize,
        learned: impl Into<Learned>,
    ) -> Matrix {
        let dims = vec![cols, rows];
        Matrix(self.push(name, Role::Matrix, [rows, cols], dims, Stored::Raw, learned))
    }

    /// Declares vectors of `len` channels each, which rwkv.cpp's files hold as one `tensor` of dimensions
    /// [len, 1, N].
    pub fn packed_vectors<const N: usize>(
        &mut self,
        tensor: &str,
        len: usize,
        vectors: [(String, Learned); N],
    ) -> [Vector; N] {
        let mut index = 0;
        vectors.map(|(name, learned)| {
            let dims = vec![len, 1, N];
            let at = self.push(name, Role::Vector, [1, len], dims, Stored::Raw, learned);
            self.specs[at].packed = Some(Packed { tensor: tensor.to_owned(), index, of: N });
            index += 1;
            Vector(at)
        })
    }

    /// Declares a vector of `len` channels.
    pub fn vector(&mut self, name: impl Into<String>, len: usize, learned: impl Into<Learned>) -> Vector {
        self.stored_vector(name, &[len], Stored::Raw, learned)
    }

    /// Declares a vector that files store with dimensions `dims`, row length first, and as a function of the
    /// raw parameter.
    pub fn stored_vector(
        &mut self,
        name: impl Into<String>,
        dims: &[usize],
        stored: Stored,
        learned: impl Into<Learned>,
    ) -> Vector {
        let len = dims.iter().product();
        Vector(self.push(name, Role::Vector, [1, len], dims.to_vec(), stored, learned))
    }

    /// All parameters; the position is the handle's index.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Number of values in all parameters together.
    pub fn n_params(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// Position of the parameter called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }

    /// The handle of the matrix at `index`; none if a vector is there.
    pub fn matrix_at(&self, index: usize) -> Option<Matrix> {
        self.specs.get(index).filter(|spec| spec.is_matrix()).map(|_| Matrix(index))
    }

    fn push(
        &mut self,
        name: impl Into<String>,
        role: Role,
        [rows, cols]: [usize; 2],
        dims: Vec<usize>,
        stored: Stored,
        learned: impl Into<Learned>,
    ) -> usize {
        let Learned { initial, rate, decays, is_hidden, is_low_rank } = learned.into();
        let decays = decays.unwrap_or(role == Role::Matrix);
        let is_hidden = is_hidden.unwrap_or(role == Role::Matrix);
        self.specs.push(ParamSpec {
            name: name.into(),
            rows,
            cols,
            role,
            dims,
            packed: None,
            stored,
            initial,
            rate,
            decays,
            is_hidden,
            is_low_rank,
        });
        self.specs.len() - 1
    }
}
