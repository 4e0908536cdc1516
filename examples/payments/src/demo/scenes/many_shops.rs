use serde_json::json;

use super::{LEASE, Playing, Scene, crowd, tell_crowd};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "many shops, one key",
    promise: "a key of one shop is not another's",
    order: ORDERS[0],
    charges: ORDERS.len(),
    calls: ORDERS.len() as u64,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// One key. Any API key is an account of its own.
const KEY: &str = "order-11";
const ORDERS: [Order; 3] = [
    Order::new(KEY, 910).at("sk_shop_a"),
    Order::new(KEY, 920).at("sk_shop_b"),
    Order::new(KEY, 930).at("sk_shop_c"),
];

/// Of each shop; so few that all of them can wait for the first one's answer.
const CLIENTS: usize = 8;

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let api = stage.start_api("api", LEASE).await?;
    let slow = json!({"mode": "slow", "latency_ms": 200});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "takes 200 ms for a charge")?;

    stage.tell(
        &format!("{} shops", ORDERS.len()),
        &format!("have {CLIENTS} clients each, who send their orders all at once, with one key"),
    )?;
    let at = [api.address()];
    let [a, b, c] = ORDERS.map(|order| crowd(&stage.clients, CLIENTS, &at, order));
    let (a, b, c) = tokio::join!(a, b, c);

    for (order, told) in ORDERS.into_iter().zip([a, b, c]) {
        stage.tell(&format!("{CLIENTS} clients"), &format!("send {order}"))?;
        tell_crowd(stage, order, &told?)?;
    }
    Ok(vec![api])
}
