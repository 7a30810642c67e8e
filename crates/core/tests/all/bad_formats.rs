//! Files of other programs that make no model, and exactly what is said of them. What is wrong within a format (a zip,
//! a pickle, a header, GGUF's directory) is tested beside its reader.

#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::fixture;
use rwkv_core::{Fault, ModelFile};
use serde_json::{Map, Value, json};

/// A tensor of a `.safetensors` file.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: String,
    /// As PyTorch has it: row length last.
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Tensors of a `.safetensors` file, in the order of their data.
struct File(Vec<Tensor>);

impl File {
    fn read(name: &str) -> Self {
        let bytes = fs::read(fixture(name)).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
        let mut tensors: Vec<_> = header.into_iter().filter(|(name, _)| name != "__metadata__").collect();
        tensors.sort_by_key(|(_, tensor)| tensor["data_offsets"][0].as_u64());
        let numbers = |value: &Value| -> Vec<usize> { serde_json::from_value(value.clone()).unwrap() };
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let range = numbers(&tensor["data_offsets"]);
            let dtype = tensor["dtype"].as_str().unwrap().to_owned();
            Tensor {
                name,
                dtype,
                shape: numbers(&tensor["shape"]),
                data: bytes[end..][range[0]..range[1]].to_owned(),
            }
        });
        Self(tensors.collect())
    }

    fn of(&mut self, name: &str) -> &mut Tensor {
        self.0.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    fn rename(&mut self, from: &str, to: &str) {
        to.clone_into(&mut self.of(from).name);
    }

    fn remove(&mut self, name: &str) {
        let before = self.0.len();
        self.0.retain(|tensor| tensor.name != name);
        assert_eq!(self.0.len() + 1, before, "{name}");
    }

    /// A tensor of zeros, in BF16.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let data = vec![0; 2 * shape.iter().product::<usize>()];
        self.0.push(Tensor { name: name.to_owned(), dtype: "BF16".to_owned(), shape: shape.to_vec(), data });
    }

    /// Gives a tensor another shape, and zeros.
    fn reshape(&mut self, name: &str, shape: &[usize]) {
        let tensor = self.of(name);
        (tensor.shape, tensor.data) = (shape.to_vec(), vec![0; 2 * shape.iter().product::<usize>()]);
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for tensor in &self.0 {
            let end = data.len() + tensor.data.len();
            let entry =
                json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [data.len(), end]});
            assert!(header.insert(tensor.name.clone(), entry).is_none());
            data.extend(&tensor.data);
        }
        let header = serde_json::to_vec(&header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }
}

/// A file of fixtures, changed.
fn changed(name: &str, change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::read(name);
    change(&mut file);
    file.bytes()
}

const OFFICIAL: &str = "tiny-v7-official.safetensors";
const FLA: &str = "tiny-v7-fla.safetensors";
const RS: &str = "tiny-v7-rs.safetensors";

/// A fixture with every `from` written over with `to`, which has as many bytes.
fn replaced(name: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = fs::read(fixture(name)).unwrap();
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty() && from.len() == to.len());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// What is said of a file, without its name and the byte.
fn said(bytes: Vec<u8>) -> (String, Option<Fault>) {
    let error = ModelFile::from_bytes(bytes).expect_err("a bad file");
    let fault = error.fault();
    let text = error.to_string();
    let text = text.strip_prefix("the buffer: ").unwrap();
    let text = match text.split_once("at byte ") {
        Some((before, after)) => format!("{before}{}", after.split_once(": ").unwrap().1),
        None => text.to_owned(),
    };
    (text, fault)
}

type Bad = (&'static str, Vec<u8>, &'static str, Fault);

fn refused(table: Vec<Bad>) {
    let mut wrong = Vec::new();
    for (what, bytes, expected, kind) in table {
        let (found, fault) = said(bytes);
        if found != expected || fault != Some(kind) {
            wrong.push(format!("{what}\n  said {found} ({fault:?})\n  not  {expected} ({kind:?})"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
#[rustfmt::skip] // a table
fn checkpoints_that_make_no_model() {
    refused(vec![
        ("two layouts mixed", changed(FLA, |file| file.rename("model.layers.1.attn.k_k", "model.blocks.1.att.k_k")),
         r#"tensor "model.blocks.1.att.k_k" it is named as RWKV's authors name them, but "model.layers.0.attn.a_lora.lora.0.weight" as Hugging Face's models do: the file mixes two models, or was converted in part; get the original"#, Fault::Name),
        ("a tensor by two names", changed(FLA, |file| file.add("emb.weight", &[16, 32])),
         r#"tensor "emb.weight" a second tensor that is "emb.weight"; the first is "model.embeddings.weight""#, Fault::Name),
        ("a missing layer", changed(OFFICIAL, |file| {
            for tensor in &mut file.0 { tensor.name = tensor.name.replace("blocks.1.", "blocks.2."); }
         }),
         r#"tensor "rwkv7.blocks.2.att.a0" a tensor of block 2, but the file has none of block 1, counted from 0"#, Fault::Missing),
        ("a block that no file has", changed(OFFICIAL, |file| file.add("blocks.4000000000.att.k_k", &[32])),
         r#"tensor "blocks.4000000000.att.k_k" a tensor of block 4000000000, but the file has none of block 2, counted from 0"#, Fault::Missing),
        ("the last block there is", changed(OFFICIAL, |file| file.add("blocks.18446744073709551615.x", &[32])),
         r#"tensor "blocks.18446744073709551615.x" a tensor of block 18446744073709551615, but the file has none of block 2, counted from 0"#, Fault::Missing),
        ("a block beyond numbers", changed(OFFICIAL, |file| file.add("blocks.18446744073709551616.x", &[32])),
         r#"tensor "blocks.18446744073709551616.x" RWKV v7 with 2 layers has no such tensor"#, Fault::Name),
        ("a missing tensor", changed(OFFICIAL, |file| file.remove("rwkv7.blocks.1.att.k_a")),
         r#"tensor "rwkv7.blocks.1.att.k_a" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
        ("a missing tensor of a first block", changed(OFFICIAL, |file| file.remove("rwkv7.blocks.0.att.r_k")),
         r#"tensor "rwkv7.blocks.0.att.r_k" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
        ("a missing tensor of fla's", changed(FLA, |file| file.remove("model.layers.1.attn.v_lora.lora.2.bias")),
         r#"tensor "model.layers.1.attn.v_lora.lora.2.bias" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
        ("a missing factor of transformers-rwkv's", changed(RS, |file| file.remove("model.blocks.1.att.g2.weight")),
         r#"tensor "model.blocks.1.att.g2.weight" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
        ("a missing head", changed(FLA, |file| file.remove("lm_head.weight")),
         r#"tensor "lm_head.weight" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
        ("a missing embedding", changed(FLA, |file| file.remove("model.embeddings.weight")),
         r#"there is no tensor "emb.weight", nor what other programs call it: this is no RWKV model"#, Fault::Missing),
        ("a norm that was multiplied in", changed(RS, |file| {
            file.remove("model.blocks.0.ln0.weight");
            file.remove("model.blocks.0.ln0.bias");
         }),
         "the norm of its embedding (blocks.0.ln0) is not there: some programs multiply it into the embedding when they convert a model, which cannot be undone; use the model that this was made from", Fault::Missing),
        ("a tensor too many", changed(FLA, |file| file.add("model.layers.1.attn.q_proj.bias", &[32])),
         r#"tensor "model.layers.1.attn.q_proj.bias" RWKV v7 with 2 layers has no such tensor"#, Fault::Name),
        ("an optimizer's state", changed(OFFICIAL, |file| file.add("optimizer.step", &[1])),
         r#"tensor "optimizer.step" RWKV v7 with 2 layers has no such tensor"#, Fault::Name),
        ("ranks that do not meet", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.1.att.g2", &[8, 32])),
         r#"tensor "rwkv7.blocks.1.att.g2" dimensions [32, 8]; a model with n_vocab 16, n_embd 32, n_layer 2 has [32, 7] here (row length first)"#, Fault::Dimensions),
        ("a rank that differs in a later block", changed(FLA, |file| {
            file.reshape("model.layers.1.attn.a_lora.lora.0.weight", &[9, 32]);
            file.reshape("model.layers.1.attn.a_lora.lora.2.weight", &[32, 9]);
         }),
         r#"tensor "model.layers.1.attn.a_lora.lora.0.weight" dimensions [32, 9]; a model with n_vocab 16, n_embd 32, n_layer 2 has [32, 5] here (row length first)"#, Fault::Dimensions),
        ("a factor that lies otherwise than the rest", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.att.a1", &[5, 32])),
         r#"tensor "rwkv7.blocks.0.att.a1" dimensions [32, 5] (row length first); the other factors of low rank lie the other way round in this file"#, Fault::Dimensions),
        ("a factor of another width", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.att.w1", &[31, 6])),
         r#"tensor "rwkv7.blocks.0.att.w1" dimensions [6, 31]; a model with n_vocab 16, n_embd 32, n_layer 2 has [6, 32] here (row length first)"#, Fault::Dimensions),
        ("a factor of one dimension", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.att.w1", &[6])),
         r#"tensor "rwkv7.blocks.0.att.w1" dimensions [6] tell no size of a model"#, Fault::Dimensions),
        ("heads that make no width", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.att.r_k", &[3, 12])),
         r#"tensor "rwkv7.blocks.0.att.r_k" dimensions [12, 3] make no heads of 32 channels together"#, Fault::Dimensions),
        ("heads that are one", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.att.r_k", &[32])),
         r#"tensor "rwkv7.blocks.0.att.r_k" dimensions [32] make no heads of 32 channels together"#, Fault::Dimensions),
        ("a matrix that is turned", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.ffn.key.weight", &[32, 24])),
         r#"tensor "rwkv7.blocks.0.ffn.key.weight" dimensions [24, 32]; a model with n_vocab 16, n_embd 32, n_layer 2 has [32, 32] here (row length first)"#, Fault::Dimensions),
        ("a hidden width that nothing else has", changed(OFFICIAL, |file| file.reshape("rwkv7.blocks.0.ffn.key.weight", &[1 << 20, 1])),
         r#"tensor "rwkv7.blocks.0.ffn.key.weight" dimensions [1, 1048576]; a model with n_vocab 16, n_embd 32, n_layer 2 has [32, 1048576] here (row length first)"#, Fault::Dimensions),
        ("RWKV-6", changed(OFFICIAL, |file| {
            file.0.retain(|tensor| !tensor.name.contains("att.r_k") && !tensor.name.contains("att.k_k"));
            file.add("blocks.0.att.time_maa_x", &[1, 1, 32]);
         }),
         "this is an RWKV v6 model; only RWKV v7, v4 can be run yet", Fault::Version),
        ("a model of another kind", changed(OFFICIAL, |file| {
            file.0.clear();
            file.add("model.embed_tokens.weight", &[16, 32]);
         }),
         r#"there is no tensor "emb.weight", nor what other programs call it: this is no RWKV model"#, Fault::Missing),
        ("no block", changed(OFFICIAL, |file| file.0.truncate(0)),
         r#"there is no tensor "emb.weight", nor what other programs call it: this is no RWKV model"#, Fault::Missing),
        ("PyTorch's, with a tensor of another name", replaced("tiny-v7.pth", b"blocks.1.att.k_k", b"blocks.1.att.k_q"),
         r#"tensor "blocks.1.att.k_k" the file has no such tensor, and RWKV v7 needs it; it is cut short or damaged, so copy or make it again"#, Fault::Missing),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn gguf_that_makes_no_model() {
    let name = "tiny-v7.gguf";
    let number = |key: &str, from: u32, to: u32| {
        let with = |value: u32| [key.as_bytes(), &4_u32.to_le_bytes(), &value.to_le_bytes()].concat();
        replaced(name, &with(from), &with(to))
    };
    let head_size = |size| number("rwkv7.wkv.head_size", 16, size);
    refused(vec![
        ("RWKV-6", replaced(name, b"\x05\0\0\0\0\0\0\0rwkv7", b"\x05\0\0\0\0\0\0\0rwkv6"), r#"its architecture is "rwkv6"; of GGUF files, rwkv7 can be run"#, Fault::Version),
        ("Llama", replaced(name, b"\x05\0\0\0\0\0\0\0rwkv7", b"\x05\0\0\0\0\0\0\0llama"),
         r#"its architecture is "llama"; of GGUF files, rwkv7 can be run"#, Fault::Version),
        ("an architecture of another name", replaced(name, b"\x05\0\0\0\0\0\0\0rwkv7", b"\x05\0\0\0\0\0\0\0xxxv7"),
         r#"its architecture is "xxxv7"; of GGUF files, rwkv7 can be run"#, Fault::Version),
        ("heads that do not divide", head_size(24),
         r#"key "rwkv7.wkv.head_size": 24; expected a number that divides n_embd, which is 32"#, Fault::Dimensions),
        ("heads of nothing", head_size(0),
         r#"key "rwkv7.wkv.head_size": 0; expected a number that divides n_embd, which is 32"#, Fault::Dimensions),
        ("heads of everything", head_size(u32::MAX),
         r#"key "rwkv7.wkv.head_size": 4294967295; expected a number that divides n_embd, which is 32"#, Fault::Dimensions),
        ("more layers than there are", number("rwkv7.block_count", 2, 3),
         r#"key "rwkv7.block_count": 3, but its tensors have 2"#, Fault::Dimensions),
        ("a width that is not there", number("rwkv7.embedding_length", 32, u32::MAX),
         r#"key "rwkv7.embedding_length": 4294967295, but its tensors have 32"#, Fault::Dimensions),
        ("a hidden width that is not there", number("rwkv7.feed_forward_length", 24, 0),
         r#"key "rwkv7.feed_forward_length": 0, but its tensors have 24"#, Fault::Dimensions),
        ("no size of heads", replaced(name, b"rwkv7.wkv.head_size", b"rwkv7.wkv.head_sizf"),
         r#"key "rwkv7.wkv.head_size": it is missing"#, Fault::Missing),
        ("another epsilon", replaced(name, &1e-5_f32.to_le_bytes(), &1e-6_f32.to_le_bytes()),
         r#"key "rwkv7.attention.layer_norm_epsilon": 0.000001; this version computes norms with 0.00001"#, Fault::Other),
        ("a tensor of a block too many", replaced(name, b"blk.1.time_mix_k_k.weight", b"blk.2.time_mix_k_k.weight"),
         r#"key "rwkv7.block_count": 2, but its tensors have 3"#, Fault::Dimensions),
        ("fused vectors that are missing", replaced(name, b"blk.1.time_mix_lerp_fused.weight", b"blk.0.time_mix_lerp_fused.weighs"),
         r#"tensor "blk.0.time_mix_lerp_fused.weighs" RWKV v7 has no such tensor in GGUF files"#, Fault::Name),
        ("a tensor of another version", replaced(name, b"blk.1.time_mix_k_k.weight", b"blk.1.time_mix_k_q.weight"),
         r#"tensor "blk.1.time_mix_k_q.weight" RWKV v7 has no such tensor in GGUF files"#, Fault::Name),
        ("an official name", replaced(name, b"output_norm.bias", b"blocks.0.ln0.xxx"),
         r#"tensor "blocks.0.ln0.xxx" RWKV v7 has no such tensor in GGUF files"#, Fault::Name),
        ("a tensor of a block far away", replaced(name, b"token_embd_norm.weight", b"blk.7.attn_norm.weight"),
         r#"key "rwkv7.block_count": 2, but its tensors have 8"#, Fault::Dimensions),
    ]);
}

/// A K-quant, by its name.
#[test]
fn types_that_cannot_be_read_are_named() {
    let name = "blk.0.time_mix_key.weight";
    let mut described =
        [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &2_u32.to_le_bytes()].concat();
    described.extend([32_u64, 32].iter().flat_map(|dim| dim.to_le_bytes()));
    for (code, of) in [(10_u32, "Q2_K"), (11, "Q3_K"), (12, "Q4_K"), (13, "Q5_K"), (14, "Q6_K")] {
        let with = |code: u32| [&described[..], &code.to_le_bytes()].concat();
        let (text, fault) = said(replaced("tiny-v7.gguf", &with(30), &with(code)));
        let expected = format!(
            "tensor {name:?} is stored as {of}, which this version does not read; convert it from a BF16, F16 or Q8_0 file \
             of the same model"
        );
        assert_eq!((text, fault), (expected, Some(Fault::DataType)));
    }
}

/// What lies under a model's name when a download went wrong, or another file was taken for it.
#[test]
#[rustfmt::skip] // a table
fn what_is_no_model_is_called_by_its_name() {
    let index = br#"{"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
    let npz = replaced("tiny-v4.pth", b"tiny-v4/data.pkl", b"arrays/emb_0.npy");
    refused(vec![
        ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 382\n".to_vec(),
         "this is no model, but a pointer of Git LFS, which stands for the model in a repository: fetch the file itself, with git lfs pull", Fault::Magic),
        ("an HTML page", b"\n<!DOCTYPE html>\n<html><head><title>404".to_vec(),
         "this is no model, but a page of a web site (HTML or XML), such as an error or a request to log in: download the file itself", Fault::Magic),
        ("an HTML page with a byte order mark", b"\xef\xbb\xbf<html lang=en>".to_vec(),
         "this is no model, but a page of a web site (HTML or XML), such as an error or a request to log in: download the file itself", Fault::Magic),
        ("an XML error", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied".to_vec(),
         "this is no model, but a page of a web site (HTML or XML), such as an error or a request to log in: download the file itself", Fault::Magic),
        ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(),
         "this is no model, but a picture (PNG)", Fault::Magic),
        ("a NumPy array", b"\x93NUMPY\x01\0v\0{'descr': '<f4'".to_vec(),
         "this is no model, but an array of NumPy's (.npy)", Fault::Magic),
        ("NumPy arrays", npz,
         "this is an archive of NumPy's arrays (.npz), not a .pth of PyTorch", Fault::Missing),
        ("a gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(),
         "this is no model, but a compressed file (gzip): unpack it first", Fault::Magic),
        ("an old file of llama.cpp", b"tjgg\x03\0\0\0\0\0\0\0".to_vec(),
         "this is no model, but a file of llama.cpp from before GGUF: convert the original model again", Fault::Magic),
        ("a configuration", b"{\"model_type\": \"rwkv7\", \"vocab_size\": 65536}".to_vec(),
         "this is no model, but a text in JSON, such as a model's config.json", Fault::Magic),
        ("an index of several files", index.to_vec(),
         r#"this is the index of a model that was split into several files, which this version does not read; join them, for example with Python's transformers: load the model and call save_pretrained(folder, max_shard_size="100GB"), and use that folder's model.safetensors"#, Fault::Other),
        ("a pickle of protocol 4", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x05hello\x94.".to_vec(),
         "this is a bare pickle, not what torch.save writes; save the model with torch.save", Fault::FormatVersion),
        ("any text", b"Once upon a time there was a file that was no model.".to_vec(),
         "the file starts with 0x65636e4f, not 0x67676d66: this is not an rwkv.cpp model, nor a .pth, .safetensors or .gguf", Fault::Magic),
        ("nothing", Vec::new(),
         "the file is empty; a model file starts with a header of 24 bytes", Fault::Truncated),
    ]);
}

/// The byte after an rwkv.cpp header's first eight may be the `{` of a safetensors header.
#[test]
fn a_bin_of_123_tokens_is_no_safetensors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.bin");
    let config = rwkv_core::ModelConfig::v4(123, 8, 1);
    crate::common::write(&path, &config, &crate::common::values(&config, 1), rwkv_core::DataType::F32);
    assert_eq!(ModelFile::open(&path).unwrap().config(), &config);
}
