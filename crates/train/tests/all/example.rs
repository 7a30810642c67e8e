//! The example that stands in the project's README does what it says.
#![allow(dead_code)] // its `main`

#[path = "../../examples/train_and_generate.rs"]
mod train_and_generate;

#[test]
fn the_example_learns_a_text_and_writes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let (book, out) = (directory.path().join("book.txt"), directory.path().join("run"));
    std::fs::write(&book, "the quick brown fox jumps over the lazy dog\n".repeat(100)).expect("a text");
    let text = train_and_generate::learn_and_write(&book, &out, "the quick").expect("a text");
    assert_eq!(text.chars().count(), "the quick".len() + 200);
    assert!(text.contains("the quick brown fox jumps over"), "{text}");
}
