use std::time::Duration;

use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{Playing, Scene};
use crate::{
    demo::{answer::Answer, clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "kill -9 in mid-charge",
    promise: "a crash costs no second charge",
    order: Order::new("order-8", 9900),
    charges: 1,
    // Of the process that was killed, and of the one that took over.
    calls: 2,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// Short, since the scene waits for its end; longer than the 2 s for which a duplicate waits before it is told to come back, so
/// that this is seen too.
const LEASE: Duration = Duration::from_secs(3);

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    let stuck = json!({"mode": "slow", "latency_ms": 60_000, "count": 1});
    stage.bank.set_faults(stuck).await?;
    stage.tell("provider", "charges, and answers a minute later, once")?;

    let (clients, address) = (stage.clients.clone(), api.address().to_owned());
    let asking = tokio::spawn(async move { clients.ask(&address, order).await });
    let asking = AbortOnDropHandle::new(asking);
    stage.bank.called(1).await?;
    let id = api.id();
    api.kill();
    let first = asking
        .await
        .map_err(|lost| Failure::because("the client panicked", lost))?;
    if first.as_ref().is_some_and(Answer::may_pass) {
        return Err(Failure::new(format!(
            "the API gave the charge up before it was killed: the machine stood still for a lease of {LEASE:?}"
        )));
    }
    stage.expect(
        first.is_none(),
        "the client was answered while the provider was still at work",
    );
    stage.tell_asking("client", order, &[first])?;
    stage.tell(
        "api",
        &format!("was killed with SIGKILL (process {id}) while the provider was at work"),
    )?;
    let api = stage.start_api("api-restarted", LEASE).await?;
    stage.tell(
        "",
        &format!(
            "is started again (process {}) on the same SQLite file; the lease is {LEASE:?}",
            api.id()
        ),
    )?;
    let answers = stage.clients.ask_until_answered(api.address(), order).await;

    stage.tell_asking("client", order, &answers)?;
    Ok(vec![api])
}
