use serde_json::json;

use super::{ATTEMPTS, LEASE, Playing, Scene};
use crate::{
    demo::{answer::Answer, clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "flapping provider",
    promise: "up or down, an order is one charge",
    order: ORDERS[0].1,
    charges: 2 * ORDERS.len(),
    // And three more for each 503.
    calls: 2 * ORDERS.len() as u64,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

/// In each round one is sent while the provider is up, and one while it is down.
const ORDERS: [(Order, Order); 3] = [
    (Order::new("order-3a", 1010), Order::new("order-3b", 1020)),
    (Order::new("order-3c", 1030), Order::new("order-3d", 1040)),
    (Order::new("order-3e", 1050), Order::new("order-3f", 1060)),
];

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let api = stage.start_api("api", LEASE).await?;
    stage.tell("provider", "is up")?;
    for (up, down) in ORDERS {
        let charged = stage.clients.ask_until_answered(api.address(), up).await;
        stage.tell_asking("client", up, &charged)?;

        stage.bank.set_faults(json!({"mode": "down"})).await?;
        stage.tell("provider", "goes down: it answers 503 to each call")?;
        let calls = stage.bank.ledger().await?.calls;
        let failed = stage.clients.ask(api.address(), down).await;
        let called = stage.bank.ledger().await?.calls - calls;
        let unknown = failed.as_ref().is_some_and(Answer::is_unknown);
        stage.tell_asking("client", down, &[failed])?;
        stage.expect(
            unknown && called == ATTEMPTS,
            &format!(
                "a client of the provider that was down was not told 503 after {ATTEMPTS} calls, but after {called}"
            ),
        );
        let again = stage.clients.ask(api.address(), up).await;
        let replayed = again.as_ref().and_then(|answer| answer.replayed);
        stage.tell_asking("meanwhile", up, &[again])?;
        stage.expect(
            replayed == Some(true),
            "who was charged before was not told so while the provider was down",
        );

        stage.bank.set_faults(json!({"mode": "ok"})).await?;
        stage.tell("provider", "comes back")?;
        let found = stage.clients.ask_until_answered(api.address(), down).await;
        stage.tell_asking("client", down, &found)?;
    }
    let health = stage.clients.health(api.address()).await?;
    stage.tell("healthz", &health)?;
    stage.expect(
        health.contains(r#""breaker":"closed""#),
        "the circuit opened, although no row of failures was long",
    );
    Ok(vec![api])
}
