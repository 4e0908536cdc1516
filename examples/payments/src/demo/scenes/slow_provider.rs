use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{clients::Order, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "slow provider",
    promise: "a charge goes on without its client",
    charges: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// What the client waits for, once the provider is at work.
const PATIENCE: Duration = Duration::from_millis(300);

async fn play(stage: &mut Stage) -> Result<(), Failure> {
    let order = Order {
        key: "order-3",
        amount: 2600,
    };
    let api = stage.start_api("api", LEASE).await?;
    let slow = json!({"mode": "slow", "latency_ms": 1500});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "charges, and answers 1.5 s later")?;

    let (clients, address) = (stage.clients.clone(), api.address().to_owned());
    let asking = tokio::spawn(async move { clients.ask(&address, order).await });
    let asking = AbortOnDropHandle::new(asking);
    stage.tell("client", &format!("sends {order}"))?;
    stage.bank.called(1).await?;
    // An abandoned request closes its connection. On a stalled machine the answer may be there before.
    match timeout(PATIENCE, asking).await {
        Err(_) => stage.tell("", &format!("hangs up after {PATIENCE:?}"))?,
        Ok(Ok(Some(answer))) => stage.tell("", &format!("gets {answer} before it hangs up"))?,
        Ok(Ok(None)) => stage.tell("", "gets no answer: the connection is lost")?,
        Ok(Err(lost)) => return Err(Failure::because("the client panicked", lost)),
    }
    let answers = stage.clients.ask_until_answered(api.address(), order).await;

    stage.tell_asking("retry", order, &answers)?;
    let last = answers.last().and_then(Option::as_ref);
    stage.expect(
        last.is_some_and(|answer| answer.replayed == Some(true)),
        "the retry did not get the answer of the charge that its client had left",
    );
    let calls = stage.bank.ledger().await?.calls;
    stage.expect(
        calls == 1,
        &format!("the charge was not carried on but asked for again: {calls} calls"),
    );
    Ok(())
}
