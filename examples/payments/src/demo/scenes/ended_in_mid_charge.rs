use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{answer::Answer, clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "SIGTERM in mid-charge",
    promise: "a new version costs no answer",
    order: WAITING,
    charges: 2,
    calls: 2,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// The client waits for its answer.
const WAITING: Order = Order::new("order-9a", 9700);

/// The client has left.
const LEFT: Order = Order::new("order-9b", 9800);

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let api = stage.start_api("api", LEASE).await?;
    let slow = json!({"mode": "slow", "latency_ms": 900});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "charges, and answers 900 ms later")?;

    let ask = |order| {
        let (clients, address) = (stage.clients.clone(), api.address().to_owned());
        AbortOnDropHandle::new(tokio::spawn(
            async move { clients.ask(&address, order).await },
        ))
    };
    let (waiting, left) = (ask(WAITING), ask(LEFT));
    stage.bank.called(2).await?;
    drop(left);
    stage.tell("client", &format!("sends {LEFT}"))?;
    stage.tell("", "hangs up while the provider is at work")?;
    let name = api.name().to_owned();
    let status = api.end().await?;
    stage.tell(
        &name,
        "is asked to end with SIGTERM, while the provider is at work",
    )?;
    let answer = waiting
        .await
        .map_err(|lost| Failure::because("the client panicked", lost))?;

    stage.expect(
        status.success(),
        &format!("{name} did not finish what it had begun: {status}"),
    );
    stage.expect(
        answer.as_ref().is_some_and(Answer::is_charged),
        "the client that waited was cut off",
    );
    stage.tell_asking("client", WAITING, &[answer])?;
    let api = stage.start_api("api-new", LEASE).await?;
    stage.tell("api", "is started again on the same SQLite file")?;
    let answers = stage.clients.ask_until_answered(api.address(), LEFT).await;
    stage.tell_asking("retry", LEFT, &answers)?;
    stage.expect(
        matches!(&*answers, [Some(answer)] if answer.replayed == Some(true)),
        "the charge that its client had left was not finished before the end",
    );
    Ok(vec![api])
}
