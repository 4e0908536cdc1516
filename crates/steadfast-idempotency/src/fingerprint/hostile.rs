//! Two requests have one fingerprint exactly if they ask for the same thing, whatever they are made of.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{HeaderValue, Method, Request, Uri};

use super::*;

const TARGET: &str = "request";

const VERSION: &str = "api-version";

#[test]
fn two_requests_have_one_fingerprint_if_and_only_if_they_ask_for_the_same() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = TARGET)
        .with_iterations(0)
        .for_each(|input: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            let Some(asked) = Asked::read(input) else {
                return;
            };
            let Some(fingerprint) = asked.fingerprint() else {
                return;
            };

            assert_eq!(asked.fingerprint(), Some(fingerprint));
            assert_eq!(fingerprint.version(), STANDARD);
            for (name, other) in asked.others() {
                if let Some(others) = other.fingerprint() {
                    assert_eq!(
                        fingerprint == others,
                        asked.meaning() == other.meaning(),
                        "{name}"
                    );
                }
            }
            for (name, parts) in asked.spellings() {
                assert_eq!(asked.recipe(&parts), fingerprint, "{name}");
            }
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn the_corpus_of_requests_is_where_the_fuzzer_looks() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/fingerprint/__fuzz__")
        .join(TARGET)
        .join("corpus");

    let requests: Vec<_> = fs::read_dir(&corpus)
        .expect("the corpus stands beside its target")
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .filter_map(|input| Asked::read(&input)?.fingerprint())
        .collect();

    assert!(requests.len() >= 10, "{} requests", requests.len());
}

/// The parts of a request, as they came.
#[derive(Clone, Debug, Default)]
struct Asked {
    method: Vec<u8>,
    path: Vec<u8>,
    query: Option<Vec<u8>>,
    content_type: Option<Vec<u8>>,
    versions: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Asked {
    /// Five lines, then the body: method, path, query, content type, and the values of the chosen header, with `|` between. An
    /// empty line is a part that is not there; one of a single blank, a part that is empty.
    fn read(input: &[u8]) -> Option<Self> {
        let mut lines = input.splitn(6, |&byte| byte == b'\n');
        let method = lines.next()?.to_vec();
        let path = lines.next()?.to_vec();
        let query = optional(lines.next()?);
        let content_type = optional(lines.next()?);
        let versions = optional(lines.next()?)
            .map(|values| {
                values
                    .split(|&byte| byte == b'|')
                    .map(<[u8]>::to_vec)
                    .collect()
            })
            .unwrap_or_default();
        let asked = Self {
            method,
            path,
            query,
            content_type,
            versions,
            body: lines.next()?.to_vec(),
        };
        (asked.path.starts_with(b"/") && !asked.path.contains(&b'?')).then_some(asked)
    }

    fn target(&self) -> Vec<u8> {
        match &self.query {
            Some(query) => [&self.path[..], b"?", query].concat(),
            None => self.path.clone(),
        }
    }

    /// The request, if it can be one; what follows a `#` never reaches a server.
    fn parts(&self) -> Option<Parts> {
        let target = self.target();
        if target.contains(&b'#') {
            return None;
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(&self.method).ok()?;
        *request.uri_mut() = Uri::try_from(target).ok()?;
        if let Some(value) = &self.content_type {
            let value = HeaderValue::from_bytes(value).ok()?;
            request.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        for value in &self.versions {
            let value = HeaderValue::from_bytes(value).ok()?;
            request.headers_mut().append(VERSION, value);
        }
        Some(request.into_parts().0)
    }

    fn recipe(&self, parts: &Parts) -> Fingerprint {
        let recipe = Recipe {
            headers: vec![HeaderName::from_static(VERSION)],
            material: None,
        };
        recipe.fingerprint(parts, &Bytes::copy_from_slice(&self.body))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        Some(self.recipe(&self.parts()?))
    }

    /// What idempotency I4 makes of it, with nothing joined and nothing hashed.
    fn meaning(&self) -> Meaning {
        let mut pairs = vec![Vec::new()];
        for &byte in self.query.iter().flatten() {
            match byte {
                b'&' => pairs.push(Vec::new()),
                byte => pairs.last_mut().expect("one is there").push(byte),
            }
        }
        pairs.retain(|pair| !pair.is_empty());
        pairs.sort();

        let mut essence = Vec::new();
        for &byte in self.content_type.iter().flatten() {
            if byte == b';' {
                break;
            }
            essence.push(byte.to_ascii_lowercase());
        }
        while matches!(essence.last(), Some(b' ' | b'\t')) {
            essence.pop();
        }
        while matches!(essence.first(), Some(b' ' | b'\t')) {
            essence.remove(0);
        }

        Meaning {
            method: self.method.clone(),
            path: self.path.clone(),
            pairs,
            essence,
            versions: self.versions.clone(),
            body: self.body.clone(),
        }
    }

    /// Requests that are nearly this one: a part changed, or bytes moved from one part to its neighbour.
    fn others(&self) -> Vec<(&'static str, Self)> {
        let mut others = Vec::new();
        let mut other = |name, change: fn(&mut Self)| {
            let mut asked = self.clone();
            change(&mut asked);
            others.push((name, asked));
        };
        other("longer method", |asked| asked.method.push(b'S'));
        other("other case of the method", |asked| {
            swap_case(&mut asked.method)
        });
        other("longer path", |asked| asked.path.push(b'/'));
        other("path into query", |asked| {
            if let Some(byte) = asked.path.pop() {
                asked.query.get_or_insert_default().insert(0, byte);
            }
        });
        other("path into body", |asked| {
            if let Some(byte) = asked.path.pop() {
                asked.body.insert(0, byte);
            }
        });
        other("empty query", |asked| {
            asked.query.get_or_insert_default();
        });
        other("no query", |asked| asked.query = None);
        other("empty pair", |asked| {
            asked.query.get_or_insert_default().push(b'&');
        });
        other("one more pair", |asked| {
            asked.query.get_or_insert_default().extend(b"&a");
        });
        other("two pairs joined", |asked| remove(&mut asked.query, b'&'));
        other("a pair without its sign", |asked| {
            remove(&mut asked.query, b'=')
        });
        other("query twice", |asked| {
            if let Some(query) = &mut asked.query {
                *query = [&query[..], b"&", query].concat();
            }
        });
        other("query into content type", |asked| {
            if let Some(byte) = asked.query.as_mut().and_then(Vec::pop) {
                asked.content_type.get_or_insert_default().insert(0, byte);
            }
        });
        other("no content type", |asked| asked.content_type = None);
        other("longer content type", |asked| {
            asked.content_type.get_or_insert_default().push(b'x');
        });
        other("content type without its sign", |asked| {
            remove(&mut asked.content_type, b';');
        });
        other("content type into header", |asked| {
            if let Some(byte) = asked.content_type.as_mut().and_then(Vec::pop) {
                asked.versions.insert(0, vec![byte]);
            }
        });
        other("content type into body", |asked| {
            if let Some(value) = asked.content_type.take() {
                asked.body = [value, asked.body.clone()].concat();
            }
        });
        other("one more header", |asked| asked.versions.push(Vec::new()));
        other("headers turned", |asked| asked.versions.reverse());
        other("headers joined", |asked| {
            if asked.versions.len() > 1 {
                asked.versions = vec![asked.versions.concat()];
            }
        });
        other("header split", |asked| {
            if let Some(first) = asked.versions.first_mut() {
                let rest = first.split_off(first.len() / 2);
                asked.versions.insert(1, rest);
            }
        });
        other("header into body", |asked| {
            if let Some(value) = asked.versions.pop() {
                asked.body = [value, asked.body.clone()].concat();
            }
        });
        other("body into header", |asked| {
            if !asked.body.is_empty() {
                asked.versions.push(vec![asked.body.remove(0)]);
            }
        });
        other("body into content type", |asked| {
            if !asked.body.is_empty() {
                let byte = asked.body.remove(0);
                asked.content_type.get_or_insert_default().push(byte);
            }
        });
        other("longer body", |asked| asked.body.push(0));
        other("shorter body", |asked| {
            asked.body.pop();
        });
        others
    }

    /// The same request, as other clients, proxies and routers may hand it over.
    fn spellings(&self) -> Vec<(&'static str, Parts)> {
        let mut turned = self.clone();
        if let Some(query) = &mut turned.query {
            let pairs: Vec<_> = query.split(|&byte| byte == b'&').rev().collect();
            *query = pairs.join(&b"&"[..]);
        }

        let mut typed = self.clone();
        if let Some(value) = &mut typed.content_type {
            swap_case(value);
            *value = [b"\t ", &value[..], b" \t; charset=utf-8"].concat();
        }

        let mut spellings = Vec::new();
        let mut add = |name, parts: Option<Parts>, change: fn(&mut Parts)| {
            if let Some(mut parts) = parts {
                change(&mut parts);
                spellings.push((name, parts));
            }
        };
        add("query turned", turned.parts(), |_| {});
        add("content type with a parameter", typed.parts(), |_| {});
        add("absolute form", self.parts(), |parts| {
            let target = parts.uri.to_string();
            if let Ok(uri) = format!("https://api.example:8443{target}").parse() {
                parts.uri = uri;
            }
        });
        add("nested router", self.parts(), |parts| {
            let whole = std::mem::replace(&mut parts.uri, Uri::from_static("/nested?x=1"));
            parts.extensions.insert(OriginalUri(whole));
        });
        add("other headers", self.parts(), |parts| {
            parts
                .headers
                .append("traceparent", HeaderValue::from_static("00-1"));
            parts.headers.append("host", HeaderValue::from_static("a"));
            parts.version = http::Version::HTTP_2;
        });
        spellings
    }
}

#[derive(Debug, PartialEq)]
struct Meaning {
    method: Vec<u8>,
    path: Vec<u8>,
    pairs: Vec<Vec<u8>>,
    essence: Vec<u8>,
    versions: Vec<Vec<u8>>,
    body: Vec<u8>,
}

fn optional(line: &[u8]) -> Option<Vec<u8>> {
    match line {
        b"" => None,
        b" " => Some(Vec::new()),
        line => Some(line.to_vec()),
    }
}

fn remove(part: &mut Option<Vec<u8>>, sign: u8) {
    if let Some(part) = part
        && let Some(at) = part.iter().position(|&byte| byte == sign)
    {
        part.remove(at);
    }
}

fn swap_case(text: &mut [u8]) {
    for byte in text {
        if byte.is_ascii_alphabetic() {
            *byte ^= 0x20;
        }
    }
}
