use serde_json::json;

use super::{LEASE, Playing, Scene, crowd, tell_crowd};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "two processes",
    promise: "two APIs on one store answer as one",
    order: Order::new("order-12", 3100),
    charges: 1,
    calls: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

const CLIENTS: usize = 40;

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let store = stage.share_store();
    stage.tell("store", &store)?;
    let names = ["api-1", "api-2"];
    // Both make the tables at once.
    let (one, two) = tokio::join!(
        stage.start_api(names[0], LEASE),
        stage.start_api(names[1], LEASE),
    );
    let mut apis = vec![one?, two?];
    let slow = json!({"mode": "slow", "latency_ms": 300});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "takes 300 ms for a charge")?;

    stage.tell(
        &format!("{CLIENTS} clients"),
        &format!("send {order}, all at once, half of them to each API"),
    )?;
    let addresses: Vec<&str> = apis.iter().map(Process::address).collect();
    let told = crowd(&stage.clients, CLIENTS, &addresses, order).await?;
    tell_crowd(stage, order, &told)?;

    let executed = told.iter().find_map(|told| {
        let answer = told.answer.as_ref()?;
        (answer.replayed == Some(false)).then_some((told.api, answer))
    });
    let Some((killed, executed)) = executed else {
        stage.expect(false, "no client got the answer of the execution itself");
        return Ok(apis);
    };
    apis.swap_remove(killed).kill();
    stage.tell(
        names[killed],
        "which ran the charge, is killed with SIGKILL",
    )?;
    let left = &apis[0];
    let answers = stage
        .clients
        .ask_until_answered(left.address(), order)
        .await;

    stage.tell_asking("client", order, &answers)?;
    let last = answers.last().and_then(Option::as_ref);
    stage.expect(
        !executed.promised || last.is_some_and(|answer| answer.replayed == Some(true)),
        &format!(
            "{} did not replay what {} had answered",
            left.name(),
            names[killed]
        ),
    );
    Ok(apis)
}
