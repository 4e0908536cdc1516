use std::{
    error::Error,
    fmt,
    marker::PhantomData,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use steadfast_core::verdict::Verdict;
use steadfast_http::{
    BoxError, Deadline, LocalRejection,
    classify::{ErrorView, GrpcRules, HttpRules, ResponseHead, Typed, verdict_of_error},
    grpc,
    problem::{Code, ProblemBase},
};
use tokio::time::Instant;

use crate::{
    Rejected, ResponseBody,
    admission::Pass,
    body::Watch,
    mode::{Mode, sealed::Sealed},
};

/// The service is HTTP, or gRPC: a rejection is a response.
pub struct OverHttp<V = Typed> {
    protocol: Protocol,
    when: When,
    /// `None` where nothing was set: most layers, which then have nothing to share with their calls.
    settings: Option<Arc<Settings>>,
    view: PhantomData<fn() -> V>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

/// When it is clear what a call says of its destination, if its head was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum When {
    /// With the head of its response.
    Head,
    /// With the end of its body, which may yet fail; in gRPC, with its trailers. A body that is dropped before counts as a success,
    /// and in gRPC, where nobody knows, as nothing.
    End,
}

#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) http_rules: HttpRules,
    pub(crate) grpc_rules: GrpcRules,
    pub(crate) problem_base: ProblemBase,
    pub(crate) classifier: Option<Classifier>,
    pub(crate) fallback: Option<Fallback>,
}

pub(crate) type Outcome<'a> = Result<ResponseHead<'a>, &'a (dyn Error + 'static)>;
pub(crate) type Classifier = Arc<dyn Fn(Outcome<'_>, Verdict) -> Verdict + Send + Sync>;
pub(crate) type Fallback =
    Arc<dyn Fn(&http::request::Parts, Response<Bytes>) -> Response<Bytes> + Send + Sync>;

impl<V> OverHttp<V> {
    pub(crate) const fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            when: match protocol {
                Protocol::Grpc => When::End,
                Protocol::Http => When::Head,
            },
            settings: None,
            view: PhantomData,
        }
    }

    pub(crate) fn with_when(self, when: When) -> Self {
        Self { when, ..self }
    }

    pub(crate) fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.settings().clone();
        change(&mut settings);
        Self {
            settings: Some(Arc::new(settings)),
            ..self
        }
    }

    pub(crate) fn with_view<N>(self) -> OverHttp<N> {
        OverHttp {
            protocol: self.protocol,
            when: self.when,
            settings: self.settings,
            view: PhantomData,
        }
    }

    fn settings(&self) -> &Settings {
        static DEFAULT: LazyLock<Settings> = LazyLock::new(Settings::default);
        match &self.settings {
            Some(settings) => settings,
            None => &DEFAULT,
        }
    }

    /// Whether a response is a success at first sight, and there is nothing to wait for: most are.
    #[inline]
    fn is_plain_success<B>(&self, response: &Response<B>) -> bool {
        let settings = self.settings();
        self.protocol == Protocol::Http
            && self.when == When::Head
            && settings.classifier.is_none()
            && settings.http_rules.is_plain_success(response)
    }

    /// Until when the caller waits, as a gRPC request tells its server. Rare: a layer that limits the call has said it already.
    #[inline]
    fn deadline_of_grpc(&self, headers: &HeaderMap) -> Option<Deadline> {
        if self.protocol != Protocol::Grpc {
            return None;
        }
        let timeout = grpc::timeout(headers)?;
        Instant::now().checked_add(timeout).map(Deadline::at)
    }

    /// What the head of a response says; `None` if the trailers will.
    fn verdict_of_head<B>(&self, response: &Response<B>) -> Option<Verdict> {
        let settings = self.settings();
        match self.protocol {
            // A conflict is the word of a destination in good health, whether or not the request was marked.
            Protocol::Http => Some(settings.http_rules.verdict(response, false)),
            Protocol::Grpc => settings.grpc_rules.verdict_of_head(response),
        }
    }

    fn classified(&self, outcome: Outcome<'_>, verdict: Verdict) -> Verdict {
        match &self.settings().classifier {
            Some(classifier) => classifier(outcome, verdict),
            None => verdict,
        }
    }

    #[cold]
    fn fail_call<E>(&self, pass: &mut Pass, error: &E)
    where
        V: ErrorView<E>,
    {
        pass.enter();
        let error = V::view(error);
        let verdict = pass.judge(verdict_of_error(error));
        let verdict = self.classified(Err(error), verdict);
        pass.leave();
        pass.end(verdict);
    }

    #[cold]
    fn finish_in_full<B>(&self, mut pass: Pass, response: Response<B>) -> Response<ResponseBody<B>>
    where
        B: Body,
    {
        let verdict = self.verdict_of_head(&response);
        let verdict = verdict.map(|verdict| pass.judge(verdict));
        let head = ResponseHead::of(&response);
        let verdict = verdict.map(|verdict| pass.run(|| self.classified(Ok(head), verdict)));
        let watch = match (verdict, self.when) {
            // A head without a code, and nobody to wait for it.
            (None, When::Head) => {
                let verdict = pass.run(|| self.classified(Ok(head), Verdict::Success));
                pass.end(verdict);
                return response.map(ResponseBody::passed);
            }
            (None, When::End) => Watch::for_trailers(pass, self.settings().grpc_rules.clone()),
            (Some(Verdict::Success), When::End) if self.protocol == Protocol::Http => {
                Watch::for_end(pass)
            }
            (Some(verdict), _) => {
                pass.end(verdict);
                return response.map(ResponseBody::passed);
            }
        };
        response.map(|body| ResponseBody::watched(body, watch))
    }
}

impl<V, B, RB, E> Mode<Request<B>, Response<RB>, E> for OverHttp<V>
where
    V: ErrorView<E>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = E;

    #[inline]
    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        Deadline::of(request.extensions()).or_else(|| self.deadline_of_grpc(request.headers()))
    }

    #[cold]
    fn reject(&self, request: Request<B>, rejected: Rejected) -> Result<Self::Response, E> {
        let settings = self.settings();
        let problem = rejected.problem();
        let is_grpc = self.protocol == Protocol::Grpc || grpc::is_grpc(request.headers());
        let mut response = if is_grpc {
            problem.into_grpc_response()
        } else {
            problem.into_response(&settings.problem_base)
        };
        response.extensions_mut().insert(rejected.clone());
        if let Some(fallback) = &settings.fallback {
            let (head, _) = request.into_parts();
            response = fallback(&head, response);
            // Also on an answer of the fallback's own making: layers around this one must not take it for the destination's.
            let extensions = response.extensions_mut();
            extensions.insert(LocalRejection::new(Code::CircuitOpen));
            extensions.insert(rejected);
        }
        Ok(response.map(ResponseBody::own))
    }

    #[inline]
    fn finish(
        &self,
        pass: &mut Option<Pass>,
        result: Result<Response<RB>, E>,
    ) -> Result<Self::Response, E> {
        match result {
            Ok(response) if self.is_plain_success(&response) => {
                if let Some(pass) = pass {
                    pass.end(Verdict::Success);
                }
                *pass = None;
                Ok(response.map(ResponseBody::passed))
            }
            Ok(response) => Ok(match pass.take() {
                Some(pass) => self.finish_in_full(pass, response),
                None => response.map(ResponseBody::passed),
            }),
            Err(error) => {
                if let Some(mut pass) = pass.take() {
                    self.fail_call(&mut pass, &error);
                }
                Err(error)
            }
        }
    }

    fn fail(error: E) -> E {
        error
    }
}

impl<V> Sealed for OverHttp<V> {}

impl<V> Clone for OverHttp<V> {
    fn clone(&self) -> Self {
        Self {
            protocol: self.protocol,
            when: self.when,
            settings: self.settings.clone(),
            view: PhantomData,
        }
    }
}

impl<V> fmt::Debug for OverHttp<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverHttp")
            .field("protocol", &self.protocol)
            .field("when", &self.when)
            .finish_non_exhaustive()
    }
}
