//! Whether a promise was kept, by the provider's ledger and by what the clients were told.

use std::collections::BTreeMap;

use super::{
    answer::Answer,
    bank::Ledger,
    clients::{Order, Sent},
    scenes::{ATTEMPTS, Scene},
};

/// What broke, in words. Nothing is assumed: a charge counts if it stands in the ledger, an answer if a client has it.
///
/// The ledger alone does not tell whether answers are remembered: the table of charges and the provider find a charge by its derived
/// names, so that the same request may be executed again and again and be one charge. The answers tell, and the calls.
pub(super) fn judge(scene: &Scene, sent: &[Sent], ledger: &Ledger) -> Vec<String> {
    let mut broken = Vec::new();
    if ledger.charges.len() != scene.charges {
        broken.push(format!(
            "the ledger shows {}, and {} was promised",
            count(ledger.charges.len(), "charge"),
            scene.charges
        ));
    }
    let calls = allowed_calls(scene, sent, ledger);
    if ledger.calls != calls {
        broken.push(format!(
            "the number of calls of the provider is {}, and {calls} was promised",
            ledger.calls
        ));
    }

    let mut by_order: BTreeMap<String, Vec<&Sent>> = BTreeMap::new();
    for sent in sent {
        by_order.entry(sent.order.name()).or_default().push(sent);
    }
    if by_order.len() != scene.charges {
        broken.push(format!(
            "clients asked for {}, and {} was to be charged",
            count(by_order.len(), "order"),
            scene.charges
        ));
    }
    judge_pairs(&by_order, &mut broken);
    for (name, sent) in by_order {
        judge_order(&name, &sent, ledger, &mut broken);
    }
    broken
}

/// What was not as it must be while the circuit was open, by what clients were told and the calls in the ledger before and after:
/// each client is refused, and told when to come back, and the provider hears of none.
pub(super) fn judge_refusals(answers: &[Option<Answer>], before: u64, after: u64) -> Vec<String> {
    let mut broken = Vec::new();
    let refused = |answer: &Answer| answer.is_refused() && answer.retry_after.is_some();
    let wrong: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.as_ref().is_some_and(refused))
        .collect();
    if let Some(first) = wrong.first() {
        let told = first
            .as_ref()
            .map_or("nothing".to_owned(), Answer::to_string);
        broken.push(format!(
            "the open circuit did not refuse {}; the first was told {told}",
            count(wrong.len(), "client")
        ));
    }
    if after != before {
        broken.push(format!(
            "the number of calls of the provider while the circuit was open is {}",
            after.saturating_sub(before)
        ));
    }
    broken
}

/// No charge is that of two orders. With as many charges in the ledger as there are orders, each order has one.
fn judge_pairs(by_order: &BTreeMap<String, Vec<&Sent>>, broken: &mut Vec<String>) {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, sent) in by_order {
        let answers = sent.iter().filter_map(|sent| sent.answer.as_ref());
        let told = answers.filter(|answer| answer.is_charged());
        let Some(charged) = told.filter_map(Answer::charged).next() else {
            continue;
        };
        if let Some(owner) = owners.insert(charged.provider_id, name) {
            broken.push(format!("{owner} and {name} were told to be one charge"));
        }
    }
}

/// The calls in the ledger if there may be that many, else what comes next to it.
///
/// A 503 admits that an execution may have been lost with all its attempts, and the next one calls again: on a slow machine the
/// database may not answer in time.
fn allowed_calls(scene: &Scene, sent: &[Sent], ledger: &Ledger) -> u64 {
    let answers = sent.iter().filter_map(|sent| sent.answer.as_ref());
    let unknown = answers.filter(|answer| answer.is_unknown()).count();
    let unknown = u64::try_from(unknown).unwrap_or(u64::MAX);
    let most = scene.calls.saturating_add(unknown.saturating_mul(ATTEMPTS));
    ledger.calls.clamp(scene.calls, most)
}

/// Judges the requests for one order, of which there is at least one.
fn judge_order(name: &str, sent: &[&Sent], ledger: &Ledger, broken: &mut Vec<String>) {
    let order = sent[0].order;
    let answers = sent.iter().filter_map(|sent| sent.answer.as_ref());
    let (charged, others): (Vec<&Answer>, Vec<&Answer>) =
        answers.partition(|answer| answer.is_charged());
    let Some(first) = charged.first() else {
        broken.push(format!("nobody was told that {name} is charged"));
        return;
    };
    if charged.iter().any(|answer| answer.body != first.body) {
        broken.push(format!("clients were told different charges for {name}"));
    }
    if let Some(wrong) = charged
        .iter()
        .find(|answer| !is_in_ledger(answer, order, ledger))
    {
        broken.push(format!(
            "a client was told a charge for {name} that is not in the ledger: {wrong}"
        ));
    }
    if let Some(wrong) = others
        .iter()
        .find(|answer| !answer.may_pass() || answer.retry_after.is_none())
    {
        broken.push(format!("a client of {name} was told {wrong}"));
    }
    judge_executions(name, sent, &charged, broken);
}

fn is_in_ledger(answer: &Answer, order: Order, ledger: &Ledger) -> bool {
    answer.charged().is_some_and(|charged| {
        charged.amount == order.amount
            && ledger
                .charges
                .iter()
                .any(|entry| entry.id == charged.provider_id && entry.amount == charged.amount)
    })
}

/// One execution gives the answer, to one client; everybody else is given that answer again. The client of the execution may have
/// left; and the layer does not promise to give an answer again that says `Idempotent-Stored: false`.
fn judge_executions(name: &str, sent: &[&Sent], charged: &[&Answer], broken: &mut Vec<String>) {
    let executed = |answer: &Answer| answer.replayed != Some(true);
    let promised = charged
        .iter()
        .filter(|answer| executed(answer) && answer.promised)
        .count();
    if promised > 1 {
        broken.push(format!(
            "{name} was executed again: {promised} clients got a 201 that is no replay, and one was promised"
        ));
    }
    let all_answered = sent.iter().all(|sent| sent.answer.is_some());
    if all_answered && !charged.iter().any(|answer| executed(answer)) {
        broken.push(format!(
            "every 201 for {name} is a replay, and no client got what is replayed"
        ));
    }
    let forgotten = sent
        .iter()
        .filter(|sent| sent.settled)
        .filter_map(|sent| sent.answer.as_ref())
        .find(|answer| answer.is_charged() && executed(answer));
    if let Some(answer) = forgotten {
        broken.push(format!(
            "the answer for {name} was not given again to a client that came after it: {answer}"
        ));
    }
}

/// `1 charge`, `2 charges`.
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests;
