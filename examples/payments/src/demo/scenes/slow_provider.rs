use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{answer::Answer, clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "slow provider",
    promise: "a charge goes on without its client",
    order: Order::new("order-7", 2600),
    charges: 1,
    calls: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// What the client waits for, once the provider is at work.
const PATIENCE: Duration = Duration::from_millis(300);

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    let slow = json!({"mode": "slow", "latency_ms": 900});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "charges, and answers 900 ms later")?;

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
    // After a 503 there is nothing to be carried on: the retry executes.
    let given_up = answers.iter().flatten().any(Answer::is_unknown);
    stage.expect(
        given_up || last.is_some_and(|answer| answer.replayed == Some(true)),
        "the retry did not get the answer of the charge that its client had left",
    );
    Ok(vec![api])
}
