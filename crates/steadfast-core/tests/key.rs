//! Properties of key parsing, held against the grammar written a second time.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{collection::vec, prelude::*};
use steadfast_core::idempotency::IdempotencyKey;

fn quoted(content: &[u8]) -> Vec<u8> {
    let mut value = vec![b'"'];
    for byte in content {
        if matches!(byte, b'"' | b'\\') {
            value.push(b'\\');
        }
        value.push(*byte);
    }
    value.push(b'"');
    value
}

fn is_bare(content: &[u8]) -> bool {
    content[0] != b'"' && content.iter().all(|byte| (0x21..=0x7e).contains(byte))
}

/// The grammar as one backward pass: what a value means, or nothing.
fn meaning(value: &[u8]) -> Option<Vec<u8>> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte))?;
    let end = value.iter().rposition(|byte| !is_space(byte))?;
    let value = &value[start..=end];
    if value[0] != b'"' {
        let is_bare = value.iter().all(|byte| (0x21..=0x7e).contains(byte));
        return (is_bare && value.len() <= 255).then(|| value.to_vec());
    }
    // Every content that fits has exactly one quoted spelling, so the value must be the spelling of what it seems to hold.
    let inner = value.get(1..value.len().checked_sub(1)?)?;
    let mut content = Vec::new();
    let mut escaped = false;
    for byte in inner {
        if *byte == b'\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            content.push(*byte);
        }
    }
    let is_string = content.iter().all(|byte| (0x20..=0x7e).contains(byte));
    let fits = (1..=255).contains(&content.len());
    (is_string && fits && quoted(&content) == value).then_some(content)
}

fn parsed(value: &[u8]) -> Option<Vec<u8>> {
    let key = IdempotencyKey::parse(value).ok()?;
    Some(key.as_bytes().to_vec())
}

const TARGET: &str = "idempotency_key";

/// Plain `cargo test` replays the corpus; see the section on fuzzing in CONTRIBUTING.
#[test]
fn hostile_values_are_parsed_as_the_grammar_says() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = TARGET)
        .with_iterations(0)
        .for_each(|value: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            assert_eq!(parsed(value), meaning(value));

            if let Some(content) = parsed(value) {
                assert!((1..=IdempotencyKey::MAX_LEN).contains(&content.len()));
                assert_eq!(parsed(&quoted(&content)), Some(content.clone()));
                assert!(!is_bare(&content) || parsed(&content) == Some(content));
            }
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn the_corpus_of_hostile_values_is_where_the_fuzzer_looks() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/__fuzz__")
        .join(TARGET)
        .join("corpus");

    let values: Vec<_> = fs::read_dir(&corpus)
        .expect("the corpus stands beside its target")
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();

    let keys = values.iter().filter(|value| parsed(value).is_some());
    let (keys, all) = (keys.count(), values.len());
    assert!(keys >= 10, "{keys} of {all} values are keys");
    assert!(all - keys >= 10, "{keys} of {all} values are keys");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_parsed_as_the_grammar_says(value in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(parsed(&value), meaning(&value));
    }

    #[test]
    fn nearly_keys_are_parsed_as_the_grammar_says(
        value in vec(prop_oneof![
            Just(b'"'), Just(b'\\'), Just(b' '), Just(b'\t'), Just(b'a'), Just(0x7f), Just(0x1f), Just(0x80)
        ], 0..12)
    ) {
        prop_assert_eq!(parsed(&value), meaning(&value));
    }

    #[test]
    fn values_about_the_limit_are_parsed_as_the_grammar_says(
        content in vec(prop_oneof![9 => Just(b'a'), 1 => Just(b'"'), 1 => Just(b'\\')], 250..260)
    ) {
        let value = quoted(&content);
        prop_assert_eq!(parsed(&value), meaning(&value));
        prop_assert_eq!(parsed(&content), meaning(&content));
    }

    #[test]
    fn a_quoted_key_comes_back_as_its_content(content in vec(0x20_u8..=0x7e, 1..=255)) {
        prop_assert_eq!(parsed(&quoted(&content)), Some(content));
    }

    #[test]
    fn both_spellings_are_one_key(first in 0x23_u8..=0x7e, rest in vec(0x21_u8..=0x7e, 0..=254)) {
        let content = [&[first][..], &rest].concat();

        prop_assert_eq!(
            IdempotencyKey::parse(&content).unwrap(),
            IdempotencyKey::parse(&quoted(&content)).unwrap()
        );
    }

    #[test]
    fn space_around_a_value_changes_nothing(
        content in vec(0x21_u8..=0x7e, 1..=255),
        before in "[ \t]{0,3}",
        after in "[ \t]{0,3}",
    ) {
        let value = quoted(&content);
        let padded = [before.as_bytes(), &value, after.as_bytes()].concat();

        prop_assert_eq!(parsed(&padded), Some(content));
    }

    #[test]
    fn a_refusal_does_not_repeat_the_value(value in "[a-z]{3}~~secret~~[ -~]{250,300}") {
        let refusal = IdempotencyKey::parse(value.as_bytes()).unwrap_err();

        let shown = format!("{refusal} {refusal:?}");
        prop_assert!(!shown.contains("secret"));
    }
}
