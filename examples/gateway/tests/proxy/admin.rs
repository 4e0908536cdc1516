//! What operators see, and how a gateway is put together.

use clap::Parser;
use gateway::config::Config;
use serde_json::json;

use crate::support::{Connection, Gateway, Protocol, Upstream, empty};

#[tokio::test]
async fn the_health_check_tells_of_each_upstream_and_clients_cannot_ask_it() {
    let (one, two) = (Upstream::saying("one").await, Upstream::saying("two").await);
    let routes = [
        &*format!("{},{}", one.at("/orders"), two.url()),
        &*one.at("/items"),
    ];
    let gateway = Gateway::start(&routes).await;
    gateway.get("/items").await;

    let mut connection = Connection::open(Protocol::Http1, gateway.admin).await;
    let answer = connection.send(empty("GET", "/healthz")).await.unwrap();

    let healthy = json!({"state": "closed", "failures_in_a_row": 0, "open_for_ms": 0});
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.json(),
        json!({"status": "ok", "breakers": {one.url(): healthy, two.url(): healthy}})
    );
    assert_eq!(gateway.get("/healthz").await.problem().1, "no-route");
    let elsewhere = connection.send(empty("GET", "/")).await.unwrap();
    assert_eq!(elsewhere.problem(), (404, "not-found".to_owned()));
    let written = connection.send(empty("PUT", "/healthz")).await.unwrap();
    assert_eq!(written.problem(), (405, "method-refused".to_owned()));
    assert_eq!(written.headers["allow"], "GET, HEAD");
}

#[tokio::test]
async fn what_cannot_work_is_said_at_the_start() {
    for (arguments, complaint) in [
        (
            &["--route", "/a=http://h", "--route", "/a/=http://g"][..],
            "two routes are for /a",
        ),
        (
            &["--route", "/a=http://h", "--deadline", "1s"],
            "the limits cannot work together",
        ),
        (
            &["--route", "/a=http://h", "--breaker-open", "400days"],
            "the circuit breakers cannot work",
        ),
        (
            &["--route", "/a=http://h", "--trust-idempotency-key", "/b"],
            "no route is for \"/b/\", on which keys are to be trusted",
        ),
    ] {
        let config = Config::try_parse_from([&["gateway"], arguments].concat()).unwrap();
        let error = gateway::app(&config).unwrap_err();
        assert_eq!(error.to_string(), complaint);
    }
}
