//! What a client asks for: the body of `POST /v1/charges`.

use std::fmt;

use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use crate::{charges::Charge, problem::Problem};

const MAX_AMOUNT: i64 = 99_999_999;

/// Of a name in characters: a list of charges stays small, and an answer far below what the idempotency layer keeps.
const MAX_TEXT: usize = 500;

/// A charge that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChargeRequest {
    /// In minor units of the currency.
    pub(crate) amount: i64,
    /// Three letters in lower case.
    pub(crate) currency: String,
    pub(crate) order: Option<String>,
    pub(crate) customer: Option<String>,
}

impl ChargeRequest {
    /// Reads a form if the content type says so, else JSON.
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        let fields = if is_form(headers) {
            Fields::of_form(body)?
        } else {
            Fields::of_json(body)?
        };
        Ok(Self {
            amount: amount(fields.amount)?,
            currency: currency(fields.currency)?,
            order: text("order", fields.order)?,
            customer: text("customer", fields.customer)?,
        })
    }

    /// Whether `charge` is what is asked for.
    pub(crate) fn is_met_by(&self, charge: &Charge) -> bool {
        self.amount == charge.amount
            && self.currency == charge.currency
            && self.order == charge.order
            && self.customer == charge.customer
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|&byte| byte == b';').next());
    essence.is_some_and(|essence| {
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// The fields of a body before anything is known about them.
#[derive(Default)]
struct Fields {
    amount: Option<Value>,
    currency: Option<Value>,
    order: Option<Value>,
    customer: Option<Value>,
}

impl Fields {
    fn of_json(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid-body",
                    format!("the body is not a charge: {error}"),
                )
            } else {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "malformed-body",
                    format!("the body is not JSON: {error}"),
                )
            }
        })
    }

    fn of_form(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Self::default();
        for pair in body.split(|byte| *byte == b'&') {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decoded(halves.next().unwrap_or_default());
            let Some((name, slot)) = name.as_deref().and_then(|name| fields.slot(name)) else {
                continue;
            };
            let Some(value) = decoded(halves.next().unwrap_or_default()) else {
                return Err(Problem::invalid_field(name, "must be UTF-8"));
            };
            let value = match name {
                "amount" => decimal(&value),
                _ => Value::from(value),
            };
            if slot.replace(value).is_some() {
                return Err(Problem::invalid_field(name, "is given twice"));
            }
        }
        Ok(fields)
    }

    fn slot(&mut self, name: &str) -> Option<(&'static str, &mut Option<Value>)> {
        match name {
            "amount" => Some(("amount", &mut self.amount)),
            "currency" => Some(("currency", &mut self.currency)),
            "order" => Some(("order", &mut self.order)),
            "customer" => Some(("customer", &mut self.customer)),
            _ => None,
        }
    }
}

/// By hand, because the derived one takes an array too, and says `null` where the field is missing.
impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `amount` and `currency`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    let Some((name, slot)) = fields.slot(&name) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if slot.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(name));
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A name or a value of a form. `form_urlencoded` puts U+FFFD where the bytes are no text, and somebody would be charged for it.
fn decoded(bytes: &[u8]) -> Option<String> {
    let mut bytes = bytes.to_vec();
    for byte in &mut bytes {
        if *byte == b'+' {
            *byte = b' ';
        }
    }
    let text = percent_decode(&bytes).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// A number where the text is one; a text that is none stays what it is, and is refused as such.
fn decimal(text: &str) -> Value {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse::<u64>()
            .map_or(Value::from(u64::MAX), Value::from)
    } else {
        Value::from(text)
    }
}

fn amount(value: Option<Value>) -> Result<i64, Problem> {
    let Some(value) = value else {
        return Err(Problem::invalid_field("amount", "is required"));
    };
    match value.as_i64() {
        Some(amount @ 1..=MAX_AMOUNT) => Ok(amount),
        _ => Err(Problem::invalid_field(
            "amount",
            "must be an integer from 1 to 99999999, in minor units",
        )),
    }
}

fn currency(value: Option<Value>) -> Result<String, Problem> {
    match value {
        None => Err(Problem::invalid_field("currency", "is required")),
        Some(Value::String(text))
            if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic()) =>
        {
            Ok(text.to_ascii_lowercase())
        }
        Some(_) => Err(Problem::invalid_field("currency", "must be three letters")),
    }
}

fn text(field: &'static str, value: Option<Value>) -> Result<Option<String>, Problem> {
    match value {
        None | Some(Value::Null) => Ok(None),
        // Postgres cannot hold it, and would only say so after the charge was made.
        Some(Value::String(text)) if text.contains('\0') => Err(Problem::invalid_field(
            field,
            "must not contain the character U+0000",
        )),
        Some(Value::String(text)) if text.chars().count() > MAX_TEXT => Err(
            Problem::invalid_field(field, "must not be longer than 500 characters"),
        ),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Problem::invalid_field(field, "must be a string")),
    }
}

#[cfg(test)]
mod tests;
