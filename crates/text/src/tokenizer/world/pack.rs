//! Makes `data/world.bin` from the text file that the vocabulary is published as:
//!
//! ```console
//! $ RWKV_UPDATE=1 cargo test -p rwkv-text --lib world::pack   # of ../shared/data beside the repository
//! ```

use std::path::Path;

/// Beside the repository, where it is worked on.
const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/rwkv_vocab_v20230424.txt");
const PACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/world.bin");

#[test]
fn the_packed_file_is_that_of_the_published_one() {
    let Ok(published) = std::fs::read_to_string(PUBLISHED) else {
        println!("skipped: there is no {PUBLISHED}");
        return;
    };
    let tokens: Vec<_> = published.lines().map(token).collect();
    assert_eq!(tokens.len(), 65_529);
    assert!(tokens.is_sorted_by(|a, b| (a.len(), a) < (b.len(), b)), "world.bin has no other numbers");
    let packed = pack(tokens);
    if std::env::var_os("RWKV_UPDATE").is_some() {
        std::fs::write(PACKED, &packed).unwrap();
    }
    assert!(std::fs::read(Path::new(PACKED)).unwrap() == packed, "RWKV_UPDATE=1 writes {PACKED} anew");
}

fn pack(mut tokens: Vec<Vec<u8>>) -> Vec<u8> {
    tokens.sort();
    let (mut packed, mut before): (_, &[u8]) = (Vec::new(), &[]);
    for token in &tokens {
        let kept = before.iter().zip(token).take_while(|(a, b)| a == b).count();
        let numbers = [kept, token.len() - kept];
        packed.push((numbers[0].min(15) << 4 | numbers[1].min(15)) as u8);
        packed.extend(numbers.iter().filter(|&&number| number >= 15).map(|&number| number as u8));
        packed.extend(&token[kept..]);
        before = token;
    }
    packed
}

/// The bytes of a line such as `261 '\n\n' 2` or `129 b'\x80' 1`: a literal of Python between two numbers.
fn token(line: &str) -> Vec<u8> {
    let (_, rest) = line.split_once(' ').unwrap();
    let (literal, length) = rest.rsplit_once(' ').unwrap();
    let (literal, is_bytes) = literal.strip_prefix('b').map_or((literal, false), |literal| (literal, true));
    let mut characters = literal[1..literal.len() - 1].chars();
    let mut bytes = Vec::new();
    while let Some(character) = characters.next() {
        let character = if character == '\\' { escaped(&mut characters) } else { character };
        if is_bytes {
            bytes.push(u8::try_from(u32::from(character)).unwrap());
        } else {
            bytes.extend(character.to_string().bytes());
        }
    }
    assert_eq!(bytes.len(), length.parse::<usize>().unwrap(), "{line}");
    bytes
}

/// What stands for the characters after a backslash.
fn escaped(characters: &mut std::str::Chars) -> char {
    let digits = match characters.next().unwrap() {
        'n' => return '\n',
        'r' => return '\r',
        't' => return '\t',
        same @ ('\\' | '\'' | '"') => return same,
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => panic!("\\{other} is no escape of the vocabulary"),
    };
    let digits: String = characters.by_ref().take(digits).collect();
    char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
}
