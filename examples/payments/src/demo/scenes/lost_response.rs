use http::StatusCode;
use serde_json::json;

use super::{ATTEMPTS, LEASE, Playing, Scene};
use crate::{
    demo::{clients::Order, processes::Process, stage::Stage},
    failure::Failure,
};

pub(super) const SCENE: Scene = Scene {
    name: "lost response",
    promise: "a lost answer costs no second charge",
    order: Order::new("order-6", 1500),
    charges: 1,
    // And three more, for its 503.
    calls: 1,
    play: |stage| -> Playing<'_> { Box::pin(play(stage)) },
};

async fn play(stage: &mut Stage) -> Result<Vec<Process>, Failure> {
    let order = SCENE.order;
    let api = stage.start_api("api", LEASE).await?;
    let lost = json!({"mode": "lose_response", "count": ATTEMPTS});
    stage.bank.set_faults(lost).await?;
    stage.tell(
        "provider",
        &format!("charges, and hangs up without an answer, {ATTEMPTS} times"),
    )?;

    let answers = stage.clients.ask_until_answered(api.address(), order).await;

    stage.tell_asking("client", order, &answers)?;
    let first = answers.first().and_then(Option::as_ref);
    stage.expect(
        first.is_some_and(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE),
        "the client was not told 503 while nobody knew whether it was charged",
    );
    Ok(vec![api])
}
