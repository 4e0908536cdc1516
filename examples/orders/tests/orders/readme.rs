//! The README shows the code that runs.

const README: &str = include_str!("../../README.md");

const SOURCES: [&str; 3] = [
    include_str!("../../src/client.rs"),
    include_str!("../../src/lib.rs"),
    include_str!("../../src/shop.rs"),
];

/// The words of a piece of code, wherever its lines break.
fn words(code: &str) -> String {
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_code_that_is_shown_is_that_of_the_program() {
    let sources = SOURCES.map(words);
    let blocks: Vec<&str> = README
        .split("```rust\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 2, "the code was not found");

    for block in blocks {
        for piece in block.split('…').map(words) {
            assert!(
                sources.iter().any(|source| source.contains(&piece)),
                "no source has\n{piece}"
            );
        }
    }
}
