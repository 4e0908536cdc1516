use serde_json::json;

use super::{LEASE, Playing, Scene, crowd, tell_crowd};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "herd on one key",
    promise: "100 clients at once get one answer",
    order: Order::new("order-10", 700),
    charges: 1,
    calls: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

const CLIENTS: usize = 100;

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    let slow = json!({"mode": "slow", "latency_ms": 300});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "takes 300 ms for a charge")?;

    stage.tell(
        &format!("{CLIENTS} clients"),
        &format!("send {order}, all at once"),
    )?;
    let told = crowd(&stage.clients, CLIENTS, &[api.address()], order).await?;

    tell_crowd(stage, order, &told)?;
    Ok(vec![api])
}
