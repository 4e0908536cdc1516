use serde_json::json;

use super::{LEASE, Playing, Scene};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "double click",
    promise: "two clicks at once are one charge",
    order: Order::new("order-1", 4200),
    charges: 1,
    calls: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    // Long enough for the second click to find the first one running.
    let slow = json!({"mode": "slow", "latency_ms": 200});
    stage.bank.set_faults(slow).await?;
    stage.tell("provider", "takes 200 ms for a charge")?;

    let (one, two) = tokio::join!(
        stage.clients.ask_until_answered(api.address(), order),
        stage.clients.ask_until_answered(api.address(), order),
    );

    stage.tell_asking("click 1", order, &one)?;
    stage.tell_asking("click 2", order, &two)?;
    for (click, answers) in [("first", one), ("second", two)] {
        let charged = matches!(answers.last(), Some(Some(answer)) if answer.is_charged());
        stage.expect(
            charged,
            &format!("the {click} click was not told of its charge"),
        );
    }
    Ok(vec![api])
}
