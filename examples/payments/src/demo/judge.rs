//! Whether a promise was kept, by the provider's ledger and by what the clients were told.

use std::collections::BTreeMap;

use super::{
    answer::Answer,
    bank::Ledger,
    clients::{Order, Sent},
};

/// What broke, in words. Nothing is assumed: a charge counts if it stands in the ledger, an answer if a client has it.
pub(super) fn judge(expected: usize, sent: &[Sent], ledger: &Ledger) -> Vec<String> {
    let mut broken = Vec::new();
    if ledger.charges.len() != expected {
        broken.push(format!(
            "the ledger shows {}, and {expected} was promised",
            count(ledger.charges.len(), "charge")
        ));
    }

    let mut by_key: BTreeMap<&str, (Order, Vec<&Answer>)> = BTreeMap::new();
    for sent in sent {
        let (_, answers) = by_key
            .entry(sent.order.key)
            .or_insert((sent.order, Vec::new()));
        answers.extend(&sent.answer);
    }
    for (order, answers) in by_key.into_values() {
        judge_order(order, &answers, ledger, &mut broken);
    }
    broken
}

fn judge_order(order: Order, answers: &[&Answer], ledger: &Ledger, broken: &mut Vec<String>) {
    let key = order.key;
    let (charged, others): (Vec<&Answer>, Vec<&Answer>) =
        answers.iter().partition(|answer| answer.is_charged());
    let Some(first) = charged.first() else {
        broken.push(format!("nobody was told that {key} is charged"));
        return;
    };
    if charged.iter().any(|answer| answer.body != first.body) {
        broken.push(format!("clients were told different charges for {key}"));
    }
    for answer in &charged {
        let stands = answer.charged().is_some_and(|charged| {
            charged.amount == order.amount
                && ledger
                    .charges
                    .iter()
                    .any(|entry| entry.id == charged.provider_id && entry.amount == charged.amount)
        });
        if !stands {
            broken.push(format!(
                "a client was told a charge for {key} that is not in the ledger: {answer}"
            ));
            break;
        }
    }
    if let Some(wrong) = others
        .iter()
        .find(|answer| !answer.may_pass() || answer.retry_after.is_none())
    {
        broken.push(format!("a client of {key} was told {wrong}"));
    }
}

/// `1 charge`, `2 charges`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{answer::tests::answer, bank::Entry};

    const ORDER: Order = Order {
        key: "order-1",
        amount: 5,
    };

    fn charged(provider_id: &str, amount: i64) -> Answer {
        let body = format!(r#"{{"id":"ch_1","amount":{amount},"provider_id":"{provider_id}"}}"#);
        answer(201, &[("idempotent-replayed", "false")], &body)
    }

    fn told(answers: impl IntoIterator<Item = Answer>) -> Vec<Sent> {
        answers
            .into_iter()
            .map(|answer| Sent {
                order: ORDER,
                answer: Some(answer),
            })
            .collect()
    }

    fn ledger(ids: &[&str]) -> Ledger {
        let charges = ids.iter().map(|id| Entry {
            id: (*id).to_owned(),
            key: Some("k".to_owned()),
            amount: ORDER.amount,
        });
        Ledger {
            charges: charges.collect(),
            calls: 7,
        }
    }

    #[test]
    fn one_charge_that_everybody_was_told_is_kept() {
        let mut sent = told([
            answer(503, &[("retry-after", "1")], ""),
            answer(409, &[("retry-after", "1")], r#"{"code":"in-progress"}"#),
            charged("pr_1", 5),
            charged("pr_1", 5),
        ]);
        sent.push(Sent {
            order: ORDER,
            answer: None,
        });

        assert_eq!(judge(1, &sent, &ledger(&["pr_1"])), [""; 0]);
    }

    #[test]
    fn each_way_to_break_a_promise_is_named() {
        for (sent, ids, named) in [
            (
                told([charged("pr_1", 5)]),
                &["pr_1", "pr_2"][..],
                "2 charges",
            ),
            (told([charged("pr_1", 5)]), &[], "0 charges"),
            (told([charged("pr_9", 5)]), &["pr_1"], "not in the ledger"),
            (told([charged("pr_1", 6)]), &["pr_1"], "not in the ledger"),
            (told([answer(201, &[], "")]), &["pr_1"], "not in the ledger"),
            (
                told([charged("pr_1", 5), charged("pr_1", 5 + 1)]),
                &["pr_1"],
                "different charges",
            ),
            (
                told([answer(503, &[("retry-after", "1")], "")]),
                &["pr_1"],
                "nobody was told",
            ),
            (
                told([answer(500, &[], ""), charged("pr_1", 5)]),
                &["pr_1"],
                "was told 500",
            ),
            (
                told([answer(503, &[], ""), charged("pr_1", 5)]),
                &["pr_1"],
                "was told 503",
            ),
            (
                told([
                    answer(
                        409,
                        &[("retry-after", "1")],
                        r#"{"code":"outcome-unknown"}"#,
                    ),
                    charged("pr_1", 5),
                ]),
                &["pr_1"],
                "was told 409 outcome-unknown",
            ),
        ] {
            let broken = judge(1, &sent, &ledger(ids));
            assert!(
                broken.iter().any(|text| text.contains(named)),
                "{named}: {broken:?}"
            );
        }
    }
}
