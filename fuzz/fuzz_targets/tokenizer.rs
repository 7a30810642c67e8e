//! Any bytes as a `tokenizer.json`, and a text to be encoded with it: the two are parted by the first zero
//! byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rwkv_fuzz::{check_error, directory};
use rwkv_text::{Decoder, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|&byte| byte == 0);
    let (json, text) = at.map_or((data, &[][..]), |at| (&data[..at], &data[at + 1..]));
    let path = directory::write("tokenizer.json", json);
    match Tokenizer::load(&path) {
        Ok(tokenizer) => {
            let copy = directory::path("copy.json");
            tokenizer.save(&copy).expect("a copy");
            assert_eq!(Tokenizer::load(&copy).expect("the copy"), tokenizer);
            use_it(&tokenizer, text);
        }
        Err(error) => check_error(&error),
    }
    use_it(&Tokenizer::bytes(), text);
    if let Ok(text) = std::str::from_utf8(text)
        && let Ok(tokenizer) = Tokenizer::characters_of(text)
    {
        let tokens = tokenizer.encode(text).expect("its own text");
        assert_eq!(tokenizer.decode(&tokens).expect("its own tokens"), text.as_bytes());
        use_it(&tokenizer, text.as_bytes());
    }
    decode_in_pieces(text);
});

fn use_it(tokenizer: &Tokenizer, text: &[u8]) {
    assert!(tokenizer.n_vocab() > 0);
    match tokenizer.encode_bytes(text, "text".as_ref()) {
        Ok(tokens) => {
            assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.n_vocab()));
            assert_eq!(tokenizer.decode(&tokens).expect("tokens of its own"), text);
        }
        Err(error) => check_error(&error),
    }
    match tokenizer.encode(&String::from_utf8_lossy(text)) {
        Ok(tokens) => assert!(tokenizer.decode(&tokens).is_ok()),
        Err(error) => check_error(&error),
    }
    // The same bytes as numbers of tokens.
    let tokens: Vec<u32> = text.as_chunks::<4>().0.iter().map(|&token| u32::from_le_bytes(token)).collect();
    match tokenizer.decode(&tokens) {
        Ok(bytes) => assert!(bytes.len() >= tokens.len()),
        Err(error) => check_error(&error),
    }
    let last = tokenizer.n_vocab() as u32 - 1;
    assert!(tokenizer.decode(&[last]).is_ok() && tokenizer.decode(&[last + 1]).is_err());
}

/// However a text is cut, the decoder puts the same together.
fn decode_in_pieces(text: &[u8]) {
    let whole = String::from_utf8_lossy(text);
    let len = text.first().map_or(1, |&byte| usize::from(byte % 5) + 1);
    let mut decoder = Decoder::default();
    let mut pieces: String = text.chunks(len).map(|piece| decoder.push(piece)).collect();
    pieces += &decoder.finish();
    assert_eq!(pieces, whole);
}
