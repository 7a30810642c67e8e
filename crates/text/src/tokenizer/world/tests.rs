use super::*;
use std::time::Instant;

fn encode(text: impl AsRef<[u8]>) -> Vec<u32> {
    let mut tokens = Vec::new();
    World::get().encode(text.as_ref(), &mut tokens);
    tokens
}

#[test]
fn building_time() {
    for _ in 0..5 {
        let t = Instant::now();
        let w = World::build();
        println!("{:?}", t.elapsed());
        drop(w);
    }
}

#[test]
fn published_vectors() {
    assert_eq!(encode("Hello, world!"), [33155, 45, 40213, 34]);
}
