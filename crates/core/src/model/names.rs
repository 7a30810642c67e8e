//! What other programs call the tensors of official checkpoints.

/// A tensor's names. `N` stands for the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// In checkpoints of the authors: `.pth`, and whatever keeps their names.
    pub official: &'static str,
    /// In GGUF files of llama.cpp; none where those have no such tensor, or pack it with others.
    pub gguf: Option<&'static str>,
    /// In Hugging Face's layout; none if that has no such tensor.
    pub hugging_face: Option<&'static str>,
}

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As the authors do.
    Official,
    /// As llama.cpp does.
    Gguf,
    /// As the models of `flash-linear-attention` and `transformers` do.
    HuggingFace,
}

impl Names {
    pub(crate) fn of(&self, dialect: Dialect) -> Option<&'static str> {
        match dialect {
            Dialect::Official => Some(self.official),
            Dialect::Gguf => self.gguf,
            Dialect::HuggingFace => self.hugging_face,
        }
    }
}

/// A name with `N` in place of the first part that is a number, and that number.
pub(crate) fn pattern(name: &str) -> (String, Option<usize>) {
    let mut block = None;
    let parts = name.split('.').map(|part| match (block, part.parse()) {
        (None, Ok(number)) if !part.starts_with('+') => {
            block = Some(number);
            "N"
        }
        _ => part,
    });
    let pattern = parts.collect::<Vec<_>>().join(".");
    (pattern, block)
}

/// A name with the number of the block in place of `N`.
pub(crate) fn of_block(pattern: &str, block: Option<usize>) -> String {
    let Some(block) = block else { return pattern.to_owned() };
    let parts = pattern.split('.').map(|part| if part == "N" { block.to_string() } else { part.to_owned() });
    parts.collect::<Vec<_>>().join(".")
}

/// Declares a table of [`Names`]; `-` stands for none.
macro_rules! names {
    ($($official:literal $gguf:tt $hugging_face:tt;)*) => {
        &[$($crate::model::names::Names {
            official: $official,
            gguf: names!(@ $gguf),
            hugging_face: names!(@ $hugging_face),
        }),*]
    };
    (@ -) => { None };
    (@ $name:literal) => { Some($name) };
}

pub(crate) use names;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Version;

    #[test]
    fn a_pattern_and_a_block_make_the_name_again() {
        for (name, of, block) in [
            ("blocks.12.att.key.weight", "blocks.N.att.key.weight", Some(12)),
            ("layers.3.attn.w_lora.lora.0.weight", "layers.N.attn.w_lora.lora.0.weight", Some(3)),
            ("emb.weight", "emb.weight", None),
        ] {
            assert_eq!(pattern(name), (of.to_owned(), block));
            assert_eq!(of_block(of, block), name);
        }
    }

    #[test]
    fn no_table_has_a_name_twice() {
        for version in Version::ALL {
            for dialect in [Dialect::Official, Dialect::Gguf, Dialect::HuggingFace] {
                let mut names: Vec<_> =
                    version.names().iter().filter_map(|names| names.of(dialect)).collect();
                let count = names.len();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), count, "{version}, {dialect:?}");
            }
        }
    }
}
