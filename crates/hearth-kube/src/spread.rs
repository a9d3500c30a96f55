//! Requests over several connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tower::Service;

/// Services that take requests in turns. Clones share the turns: layers around a service clone it for each request.
#[derive(Clone, Debug)]
pub(crate) struct Spread<S> {
    /// At least one.
    services: Vec<S>,
    turn: Arc<AtomicUsize>,
}

impl<S> Spread<S> {
    pub(crate) fn new(first: S, others: impl Iterator<Item = S>) -> Self {
        Self {
            services: std::iter::once(first).chain(others).collect(),
            turn: Arc::default(),
        }
    }
}

impl<S, R> Service<R> for Spread<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Whose turn it is shows when the request is there.
        for service in &mut self.services {
            ready!(service.poll_ready(context))?;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> S::Future {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.services.len();
        self.services[turn].call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use tower::ServiceExt as _;

    use super::*;

    /// Answers with its number.
    #[derive(Clone)]
    struct Numbered(u8);

    impl Service<()> for Numbered {
        type Response = u8;
        type Error = Infallible;
        type Future = Ready<Result<u8, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            ready(Ok(self.0))
        }
    }

    #[tokio::test]
    async fn each_takes_its_turn_also_in_clones() {
        let spread = Spread::new(Numbered(0), [Numbered(1), Numbered(2)].into_iter());
        let mut answers = Vec::new();
        for _ in 0..7 {
            answers.push(spread.clone().oneshot(()).await.unwrap());
        }
        assert_eq!(answers, [0, 1, 2, 0, 1, 2, 0]);
    }
}
