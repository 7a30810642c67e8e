//! What parameters a model has: their names, shapes and order, declared once by the model's own file.
//!
//! A model file declares its parameters in a [`Layout`] and keeps the handles it gets back. Whoever runs the model
//! has a value for each handle: [`Infer`](crate::Infer) a mapped tensor of a file, the training tape an f32 array and
//! its gradient. Loading, initialising and writing a model walk the same list.

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
            Self::NegExp => -raw.exp(),
        }
    }

    /// The raw parameter for a value of a model file, up to rounding.
    pub fn to_raw(self, stored: f32) -> f32 {
        match self {
            Self::Raw => stored,
            Self::NegExp => (-stored).ln(),
        }
    }
}

/// One parameter: its name in files, its shape, and how files store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Name in model files, such as `blocks.0.att.key.weight`.
    pub name: String,
    /// Outputs of a matrix; 1 for a vector.
    pub rows: usize,
    /// Inputs of a matrix; length of a vector.
    pub cols: usize,
    /// Whether this is a [`Matrix`]. Weight decay and reduced precision apply to matrices only.
    pub is_matrix: bool,
    /// How a file's value follows from the raw one.
    pub stored: Stored,
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

    /// Dimensions in the order of rwkv.cpp's files: row length first.
    pub fn file_dims(&self) -> Vec<usize> {
        if self.is_matrix { vec![self.cols, self.rows] } else { vec![self.cols] }
    }
}

/// The parameters of a model, in the order in which files list them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    specs: Vec<ParamSpec>,
}

impl Layout {
    /// Declares a matrix that maps `cols` inputs to `rows` outputs.
    pub fn matrix(&mut self, name: impl Into<String>, rows: usize, cols: usize) -> Matrix {
        Matrix(self.push(ParamSpec { name: name.into(), rows, cols, is_matrix: true, stored: Stored::Raw }))
    }

    /// Declares a vector of `len` channels.
    pub fn vector(&mut self, name: impl Into<String>, len: usize) -> Vector {
        self.stored_vector(name, len, Stored::Raw)
    }

    /// Declares a vector that files store as a function of the raw parameter.
    pub fn stored_vector(&mut self, name: impl Into<String>, len: usize, stored: Stored) -> Vector {
        Vector(self.push(ParamSpec { name: name.into(), rows: 1, cols: len, is_matrix: false, stored }))
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

    fn push(&mut self, spec: ParamSpec) -> usize {
        self.specs.push(spec);
        self.specs.len() - 1
    }
}
