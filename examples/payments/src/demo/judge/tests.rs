mod forgetful;

use super::*;
use crate::demo::{answer::tests::answer, bank::Entry};

const ORDER: Order = Order::new("order-1", 5);

const SCENE: Scene = Scene {
    name: "test",
    promise: "one charge",
    order: ORDER,
    charges: 1,
    calls: 1,
    play: |_| Box::pin(async { Ok(Vec::new()) }),
};

fn charged(replayed: &'static str, provider_id: &str, amount: i64) -> Answer {
    let body = format!(r#"{{"id":"ch_1","amount":{amount},"provider_id":"{provider_id}"}}"#);
    answer(201, &[("idempotent-replayed", replayed)], &body)
}

fn executed() -> Answer {
    charged("false", "pr_1", 5)
}

fn replayed() -> Answer {
    charged("true", "pr_1", 5)
}

fn unstored() -> Answer {
    let headers = [
        ("idempotent-replayed", "false"),
        ("idempotent-stored", "false"),
    ];
    let body = executed().body;
    answer(201, &headers, str::from_utf8(&body).unwrap())
}

fn unknown() -> Answer {
    answer(503, &[("retry-after", "1")], "")
}

/// What clients were told who all asked at once.
fn told(answers: impl IntoIterator<Item = Answer>) -> Vec<Sent> {
    let sent = |answer| Sent {
        order: ORDER,
        settled: false,
        answer: Some(answer),
    };
    answers.into_iter().map(sent).collect()
}

fn lost() -> Sent {
    Sent {
        order: ORDER,
        settled: false,
        answer: None,
    }
}

/// What a client was told who came when another had its answer.
fn latecomer(answer: Answer) -> Sent {
    Sent {
        order: ORDER,
        settled: true,
        answer: Some(answer),
    }
}

fn ledger(ids: &[&str], calls: u64) -> Ledger {
    let charges = ids.iter().map(|id| Entry {
        id: (*id).to_owned(),
        key: Some("k".to_owned()),
        amount: ORDER.amount,
    });
    Ledger {
        charges: charges.collect(),
        calls,
    }
}

fn assert_names(named: &str, broken: &[String]) {
    assert!(
        broken.iter().any(|text| text.contains(named)),
        "{named}: {broken:?}"
    );
}

#[test]
fn one_charge_that_everybody_was_told_is_kept() {
    let mut sent = told([
        answer(409, &[("retry-after", "1")], r#"{"code":"in-progress"}"#),
        replayed(),
        executed(),
        replayed(),
    ]);
    sent.push(latecomer(replayed()));

    assert_eq!(judge(&SCENE, &sent, &ledger(&["pr_1"], 1)), [""; 0]);
}

#[test]
fn what_a_slow_machine_may_do_is_kept() {
    let unacknowledged = answer(
        201,
        &[
            ("idempotent-replayed", "true"),
            ("idempotent-stored", "false"),
        ],
        str::from_utf8(&replayed().body).unwrap(),
    );
    for (sent, calls) in [
        // The client of the execution has left.
        (
            vec![lost(), told([replayed()]).remove(0), latecomer(replayed())],
            1,
        ),
        // The outcome of an execution is unknown, and so is that of its calls.
        (told([unknown(), executed()]), 1),
        (told([unknown(), executed()]), 2),
        (told([unknown(), executed()]), 4),
        // The answer of an execution is not stored, and another one takes over.
        (told([unstored(), unacknowledged, executed()]), 1),
        // The store cannot be asked for a moment.
        (
            vec![
                told([executed()]).remove(0),
                latecomer(unknown()),
                latecomer(replayed()),
            ],
            1,
        ),
    ] {
        let broken = judge(&SCENE, &sent, &ledger(&["pr_1"], calls));
        assert_eq!(broken, [""; 0], "{sent:?}");
    }
}

#[test]
fn each_way_to_break_a_promise_is_named() {
    let lost_for_good = r#"{"code":"outcome-unknown"}"#;
    for (sent, ids, named) in [
        (told([executed()]), &["pr_1", "pr_2"][..], "2 charges"),
        (told([executed()]), &[], "0 charges"),
        (
            told([charged("false", "pr_9", 5)]),
            &["pr_1"],
            "not in the ledger",
        ),
        (
            told([charged("false", "pr_1", 6)]),
            &["pr_1"],
            "not in the ledger",
        ),
        (told([answer(201, &[], "")]), &["pr_1"], "not in the ledger"),
        (
            told([executed(), charged("true", "pr_1", 5 + 1)]),
            &["pr_1"],
            "different charges",
        ),
        (told([unknown()]), &["pr_1"], "nobody was told"),
        (
            told([answer(500, &[], ""), executed()]),
            &["pr_1"],
            "was told 500",
        ),
        (
            told([answer(503, &[], ""), executed()]),
            &["pr_1"],
            "was told 503",
        ),
        (
            told([
                answer(409, &[("retry-after", "1")], lost_for_good),
                executed(),
            ]),
            &["pr_1"],
            "was told 409 outcome-unknown",
        ),
        (
            told([replayed(), replayed()]),
            &["pr_1"],
            "every 201 for order-1 is a replay",
        ),
    ] {
        assert_names(named, &judge(&SCENE, &sent, &ledger(ids, 1)));
    }
}

#[test]
fn each_order_has_a_charge_of_its_own() {
    let scene = Scene {
        charges: 2,
        calls: 2,
        ..SCENE
    };
    let sent = |order, provider_id| Sent {
        order,
        settled: false,
        answer: Some(charged("false", provider_id, ORDER.amount)),
    };
    let of = |key, provider_id| sent(Order::new(key, ORDER.amount), provider_id);
    let ledger = ledger(&["pr_1", "pr_2"], 2);

    let kept = [of("order-1", "pr_1"), of("order-2", "pr_2")];
    assert_eq!(judge(&scene, &kept, &ledger), [""; 0]);
    let shared = [of("order-1", "pr_1"), of("order-2", "pr_1")];
    assert_names(
        "order-1 and order-2 were told to be one charge",
        &judge(&scene, &shared, &ledger),
    );
    let one_key = [sent(ORDER, "pr_1"), sent(ORDER.at("sk_b"), "pr_2")];
    assert_eq!(judge(&scene, &one_key, &ledger), [""; 0]);
    let shared = [sent(ORDER, "pr_1"), sent(ORDER.at("sk_b"), "pr_1")];
    assert_names(
        "order-1 and order-1 of sk_b were told to be one charge",
        &judge(&scene, &shared, &ledger),
    );
    // Charged twice.
    let alone = [of("order-1", "pr_1")];
    assert_names("asked for 1 order", &judge(&scene, &alone, &ledger));
}

#[test]
fn an_open_circuit_refuses_everybody_and_calls_nobody() {
    let body = r#"{"code":"circuit-open"}"#;
    let refused = || Some(answer(503, &[("retry-after", "2")], body));
    let endless = Some(answer(503, &[], body));

    assert_eq!(judge_refusals(&[refused(), refused()], 5, 5), [""; 0]);
    for (answers, after, named) in [
        ([refused(), refused()], 6, "while the circuit was open is 1"),
        (
            [refused(), None],
            5,
            "refuse 1 client; the first was told nothing",
        ),
        (
            [refused(), endless],
            5,
            "refuse 1 client; the first was told 503 circuit-open",
        ),
        (
            [refused(), Some(unknown())],
            5,
            "refuse 1 client; the first was told 503, Retry-After",
        ),
        (
            [refused(), Some(executed())],
            5,
            "refuse 1 client; the first was told 201",
        ),
    ] {
        assert_names(named, &judge_refusals(&answers, 5, after));
    }
}

#[test]
fn a_refusal_by_the_open_circuit_stands_for_no_call() {
    let refused = answer(503, &[("retry-after", "2")], r#"{"code":"circuit-open"}"#);
    let sent = told([refused, executed()]);

    assert_eq!(judge(&SCENE, &sent, &ledger(&["pr_1"], 1)), [""; 0]);
    let broken = judge(&SCENE, &sent, &ledger(&["pr_1"], 2));
    assert_names("is 2, and 1 was promised", &broken);
}

#[test]
fn each_call_of_the_provider_is_accounted_for() {
    for (sent, calls, named) in [
        (told([executed()]), 0, "is 0, and 1 was promised"),
        (told([executed()]), 2, "is 2, and 1 was promised"),
        (told([unknown(), executed()]), 5, "is 5, and 4 was promised"),
    ] {
        assert_names(named, &judge(&SCENE, &sent, &ledger(&["pr_1"], calls)));
    }

    let scene = Scene { calls: 2, ..SCENE };
    let broken = judge(&scene, &told([executed()]), &ledger(&["pr_1"], 1));
    assert_names("is 1, and 2 was promised", &broken);
}
