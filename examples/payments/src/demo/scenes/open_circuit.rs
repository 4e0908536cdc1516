use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{
        answer::Answer, clients::Order, judge::judge_refusals, processes::Process, stage::Stage,
    },
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "open circuit",
    promise: "a provider that is down is left alone",
    order: ORDERS[0],
    charges: ORDERS.len(),
    calls: FAILURES + ORDERS.len() as u64,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// By default the API leaves the provider alone after so many failures.
const FAILURES: u64 = 5;

/// Short, since the scene waits for its end; long enough for everything that is to be refused meanwhile.
const OPEN: Duration = Duration::from_secs(2);

/// By default so many probes that succeed close the circuit.
const PROBES: usize = 3;

/// What the API logs of each refusal.
const REFUSAL: &str = "the provider is left alone";

/// The calls of the first two are those that fail; the others are refused.
const FAILING: usize = 2;
const ORDERS: [Order; 12] = [
    Order::new("order-4a", 1100),
    Order::new("order-4b", 1200),
    Order::new("order-4c", 1300),
    Order::new("order-4d", 1400),
    Order::new("order-4e", 1500),
    Order::new("order-4f", 1600),
    Order::new("order-4g", 1700),
    Order::new("order-4h", 1800),
    Order::new("order-4i", 1900),
    Order::new("order-4j", 2000),
    Order::new("order-4k", 2100),
    Order::new("order-4l", 2200),
];

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let open = humantime::format_duration(OPEN).to_string();
    let api = stage
        .start_api_with("api", LEASE, &["--breaker-open", &open])
        .await?;
    show_state(stage, &api, "closed").await?;
    stage.bank.set_faults(json!({"mode": "down"})).await?;
    stage.tell("provider", "is down: it answers 503 to each call")?;

    let opening = fail(stage, &api).await?;
    let pause = refuse(stage, &api, opening).await?;

    // Slow once, so that somebody comes while the first probe is under way.
    let back = json!({"mode": "slow", "latency_ms": 500, "count": 1});
    stage.bank.set_faults(back).await?;
    stage.tell("provider", "is back; it takes 500 ms for the first charge")?;
    stage.tell("clients", &format!("wait {pause:?}, as they were told"))?;
    sleep(pause).await;
    probe(stage, &api).await?;

    let left = &ORDERS[PROBES..];
    let answers = at_once(stage, &api, left).await?;
    let charged = answers
        .iter()
        .flatten()
        .filter(|answer| answer.is_charged())
        .count();
    stage.tell(
        &format!("{} clients", left.len()),
        &format!("send theirs, all at once, and get {charged} times 201"),
    )?;
    stage.expect(
        charged == left.len(),
        "the closed circuit did not let every client pass",
    );
    Ok(vec![api])
}

/// Orders fail until the circuit opens. Returns a moment before it did.
async fn fail(stage: &mut Stage, api: &Process) -> Result<Instant, Failure> {
    let mut begun = Instant::now();
    for order in &ORDERS[..FAILING] {
        begun = Instant::now();
        let answer = stage.clients.ask(api.address(), *order).await;
        stage.tell_asking("client", *order, &[answer])?;
    }
    in_time(begun)?;
    let opened = api.logged("circuit opened")?;
    for line in &opened {
        stage.tell("log", line)?;
    }
    let calls = stage.bank.ledger().await?.calls;
    stage.expect(
        opened.len() == 1 && calls == FAILURES,
        &format!("the circuit did not open with failure {FAILURES}, but after {calls} calls"),
    );
    Ok(begun)
}

/// Orders are refused while the circuit is open. Returns when all of them may come back.
async fn refuse(stage: &mut Stage, api: &Process, opening: Instant) -> Result<Duration, Failure> {
    let orders = &ORDERS[FAILING..];
    show_state(stage, api, "open").await?;
    let before = stage.bank.ledger().await?.calls;
    let logged = api.logged(REFUSAL)?.len();

    let answers = at_once(stage, api, orders).await?;

    in_time(opening)?;
    let after = stage.bank.ledger().await?.calls;
    stage.note(judge_refusals(&answers, before, after));
    let refused: Vec<&Answer> = answers.iter().flatten().collect();
    stage.tell(
        &format!("{} clients", orders.len()),
        "send POST /v1/charges, each with a key of its own, all at once",
    )?;
    if let Some(first) = refused.first() {
        stage.tell("", &format!("get {} answers like {first}", refused.len()))?;
    }
    tell_times(stage, &api.logged(REFUSAL)?[logged..])?;
    stage.tell(
        "provider",
        &format!("was called {} times meanwhile", after - before),
    )?;
    let pauses = refused.iter().filter_map(|answer| answer.retry_after);
    Ok(pauses.max().unwrap_or(OPEN))
}

/// Says how long the API took to find out that it must not call the provider.
fn tell_times(stage: &mut Stage, lines: &[String]) -> Result<(), Failure> {
    if let Some(first) = lines.first() {
        stage.tell("log", first)?;
    }
    let mut took: Vec<u64> = lines.iter().filter_map(|line| micros(line)).collect();
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied();
    if let (Some(median), Some(longest)) = (median, took.last()) {
        stage.tell(
            "",
            &format!(
                "{} refusals took {median} µs in the median, {longest} µs at most",
                took.len()
            ),
        )?;
    }
    // Less than any call, also of a debug build on a busy machine, where it is some hundred microseconds.
    stage.expect(
        took.len() == ORDERS.len() - FAILING && median.is_some_and(|median| median < 5000),
        "the log does not show that refusals take no longer than a look at the breaker",
    );
    Ok(())
}

/// Orders that come after the open time are probes, one at a time, until enough have succeeded.
async fn probe(stage: &mut Stage, api: &Process) -> Result<(), Failure> {
    let [first, second, third] = [ORDERS[0], ORDERS[1], ORDERS[2]];
    let calls = stage.bank.ledger().await?.calls;
    let (clients, address) = (stage.clients.clone(), api.address().to_owned());
    let asking = tokio::spawn(async move { clients.ask_until_answered(&address, first).await });
    let asking = AbortOnDropHandle::new(asking);
    stage.bank.called(calls + 1).await?;
    show_state(stage, api, "half_open").await?;
    let meanwhile = stage
        .clients
        .ask_until_answered(api.address(), second)
        .await;
    let probed = asking
        .await
        .map_err(|lost| Failure::because("a client panicked", lost))?;
    stage.expect(
        matches!(&*probed, [Some(answer)] if answer.is_charged()),
        "a client that came when it was told to was no probe",
    );
    stage.tell_asking("client", first, &probed)?;
    stage.tell_asking("meanwhile", second, &meanwhile)?;
    show_state(stage, api, "half_open").await?;

    let last = stage.clients.ask_until_answered(api.address(), third).await;
    stage.tell_asking("client", third, &last)?;
    show_state(stage, api, "closed").await?;
    for line in api.logged("circuit changed")? {
        stage.tell("log", &line)?;
    }
    Ok(())
}

/// Asks once for each of the orders.
async fn at_once(
    stage: &Stage,
    api: &Process,
    orders: &[Order],
) -> Result<Vec<Option<Answer>>, Failure> {
    let ask = |&order: &Order| {
        let (clients, address) = (stage.clients.clone(), api.address().to_owned());
        let asking = tokio::spawn(async move { clients.ask(&address, order).await });
        AbortOnDropHandle::new(asking)
    };
    let asking: Vec<_> = orders.iter().map(ask).collect();
    let mut answers = Vec::with_capacity(orders.len());
    for one in asking {
        let answer = one.await;
        answers.push(answer.map_err(|lost| Failure::because("a client panicked", lost))?);
    }
    Ok(answers)
}

async fn show_state(stage: &mut Stage, api: &Process, breaker: &str) -> Result<(), Failure> {
    let health = stage.clients.health(api.address()).await?;
    stage.tell("healthz", &health)?;
    stage.expect(
        health == format!(r#"{{"status":"ok","breaker":"{breaker}"}}"#),
        &format!("the circuit was not {breaker}: {health}"),
    );
    Ok(())
}

fn in_time(opening: Instant) -> Result<(), Failure> {
    if opening.elapsed() < OPEN {
        Ok(())
    } else {
        Err(Failure::new(format!(
            "the machine stood still for {OPEN:?}, as long as the circuit is open"
        )))
    }
}

/// The time in a line of the log.
fn micros(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("took_us=")?;
    rest.split(' ').next()?.parse().ok()
}
