use serde_json::json;

use super::{ATTEMPTS, LEASE, Playing, Scene};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "passing fault",
    promise: "no client sees a fault that passes",
    order: Order::new("order-2", 1900),
    charges: 1,
    calls: ATTEMPTS,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    let down = json!({"mode": "down", "count": ATTEMPTS - 1});
    stage.bank.set_faults(down).await?;
    stage.tell(
        "provider",
        &format!("answers 503 to {} calls, then charges", ATTEMPTS - 1),
    )?;

    let answers = stage.clients.ask_until_answered(api.address(), order).await;

    stage.tell_asking("client", order, &answers)?;
    let healed = matches!(&*answers, [Some(answer)] if answer.is_charged());
    stage.expect(healed, "the client was troubled with a fault that passed");
    let retries = api.logged("retrying")?;
    for retry in &retries {
        stage.tell("log", retry)?;
    }
    stage.expect(
        retries.len() as u64 == ATTEMPTS - 1,
        "the log does not show each attempt after the first",
    );
    Ok(vec![api])
}
