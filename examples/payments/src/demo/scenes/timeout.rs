use serde_json::json;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "timeout",
    promise: "a timeout costs no second charge",
    order: Order::new("order-5", 2300),
    charges: 1,
    // The one that is given up, and the one that finds what it has charged.
    calls: 2,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// Short, since the scene waits for it; much longer than a provider in good health needs, also on a busy machine.
const LIMIT: &str = "600ms";

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage
        .start_api_with("api", LEASE, &["--provider-timeout", LIMIT])
        .await?;
    let stuck = json!({"mode": "slow", "latency_ms": 60_000, "count": 1});
    stage.bank.set_faults(stuck).await?;
    stage.tell("provider", "charges, and answers a minute later, once")?;
    stage.tell(
        "api",
        &format!("waits {LIMIT} for the answer of an attempt"),
    )?;

    let answers = stage.clients.ask_until_answered(api.address(), order).await;

    stage.tell_asking("client", order, &answers)?;
    let healed = matches!(&*answers, [Some(answer)] if answer.is_charged());
    stage.expect(
        healed,
        "the client was troubled with an attempt that was given up",
    );
    let retries = api.logged("retrying")?;
    for retry in &retries {
        stage.tell("log", retry)?;
    }
    stage.expect(
        matches!(&*retries, [retry] if retry.contains("reason=\"elapsed\"")),
        "the log does not show the attempt after the one that was given up",
    );
    Ok(vec![api])
}
