use super::*;

fn json(body: &str) -> Result<ChargeRequest, Problem> {
    ChargeRequest::parse(&HeaderMap::new(), body.as_bytes())
}

fn form(body: &str) -> Result<ChargeRequest, Problem> {
    let mut headers = HeaderMap::new();
    let content_type = "Application/X-WWW-Form-Urlencoded; charset=utf-8";
    headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    ChargeRequest::parse(&headers, body.as_bytes())
}

#[test]
fn json_and_forms_say_the_same() {
    let asked = ChargeRequest {
        amount: 1999,
        currency: "usd".into(),
        order: Some("o 1".into()),
        customer: None,
    };

    assert_eq!(
        json(
            r#"{"amount": 1999, "currency": "USD", "order": "o 1", "customer": null, "metadata": {"a": [1]}}"#
        ),
        Ok(asked.clone())
    );
    assert_eq!(
        form("amount=1999&currency=Usd&order=o+1&metadata[a]=1&source=card"),
        Ok(asked)
    );
}

#[test]
fn a_form_is_decoded_and_nothing_in_it_is_guessed() {
    let parsed =
        form("&%61mount=1&currency=usd&=&%ff=%ff&order=%C3%A9%20a%2Bb=c&customer=%EF%BF%BD");

    let asked = ChargeRequest {
        amount: 1,
        currency: "usd".into(),
        order: Some("é a+b=c".into()),
        // A client's own.
        customer: Some("\u{fffd}".into()),
    };
    assert_eq!(parsed, Ok(asked));
    assert!(form("amount=1&currency=usd&order=\u{fffd}").is_ok());
    let mut headers = HeaderMap::new();
    let content_type = "application/x-www-form-urlencoded";
    headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    let problem = ChargeRequest::parse(&headers, b"amount=1&currency=usd&order=\xff").unwrap_err();
    assert!(problem.detail().contains("`order`"), "{problem:?}");
}

#[test]
fn a_wrong_field_is_named() {
    for (field, body) in [
        ("amount", r#"{"currency": "usd"}"#),
        ("amount", r#"{"amount": null, "currency": "usd"}"#),
        ("amount", r#"{"amount": "1999", "currency": "usd"}"#),
        ("amount", r#"{"amount": 19.99, "currency": "usd"}"#),
        ("amount", r#"{"amount": 100.0, "currency": "usd"}"#),
        ("amount", r#"{"amount": 0, "currency": "usd"}"#),
        ("amount", r#"{"amount": -1, "currency": "usd"}"#),
        ("amount", r#"{"amount": 100000000, "currency": "usd"}"#),
        (
            "amount",
            r#"{"amount": 18446744073709551616, "currency": "usd"}"#,
        ),
        ("amount", r#"{"amount": true, "currency": "usd"}"#),
        ("amount", r#"{"amount": 1, "amount": 2, "currency": "usd"}"#),
        ("currency", r#"{"amount": 1}"#),
        ("currency", r#"{"amount": 1, "currency": "us"}"#),
        ("currency", r#"{"amount": 1, "currency": "us1"}"#),
        ("currency", r#"{"amount": 1, "currency": "é1"}"#),
        ("currency", r#"{"amount": 1, "currency": 840}"#),
        ("order", r#"{"amount": 1, "currency": "usd", "order": 7}"#),
        (
            "order",
            r#"{"amount": 1, "currency": "usd", "order": "\u0000"}"#,
        ),
        (
            "customer",
            r#"{"amount": 1, "currency": "usd", "customer": []}"#,
        ),
    ] {
        let problem = json(body).unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(problem.detail().contains(&format!("`{field}`")), "{body}");
    }
    for (field, body) in [
        ("amount", ""),
        ("amount", "currency=usd"),
        ("amount", "amount=&currency=usd"),
        ("amount", "amount=12.5&currency=usd"),
        ("amount", "amount=%2B5&currency=usd"),
        ("amount", "amount=99999999999999999999&currency=usd"),
        ("amount", "amount=1&amount=1&currency=usd"),
        ("currency", "amount=1"),
        ("customer", "amount=1&currency=usd&customer=%00"),
        ("customer", "amount=1&currency=usd&customer=%C3"),
        ("order", "amount=1&currency=usd&order=a%ffb"),
    ] {
        let problem = form(body).unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(problem.detail().contains(&format!("`{field}`")), "{body}");
    }
}

#[test]
fn a_name_has_500_characters_at_most() {
    let of_length = |length| {
        let order = "é".repeat(length);
        json(&format!(
            r#"{{"amount": 1, "currency": "usd", "order": "{order}"}}"#
        ))
    };

    assert!(of_length(500).is_ok());
    assert!(of_length(501).unwrap_err().detail().contains("`order`"));
}

#[test]
fn what_cannot_be_parsed_is_a_bad_request_and_what_is_no_object_is_not() {
    for body in ["", "{", "amount=1", r#"{"amount": 1}x"#] {
        assert_eq!(
            json(body).unwrap_err().status(),
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    for body in ["[1, \"usd\"]", "null", "7"] {
        assert_eq!(
            json(body).unwrap_err().status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{body}"
        );
    }
}
