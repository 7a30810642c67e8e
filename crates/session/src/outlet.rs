//! Where what is written waits for whoever takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rwkv_core::schedule::Demand;
use rwkv_core::{Error, Result};

use crate::text::{Call, Point, Text};
use crate::{End, Piece};

/// How long a piece is written at least, unless nothing more comes: a small model writes a token in less time than it
/// takes to hand it over, and no reader notices so short a delay.
const PIECE: Duration = Duration::from_millis(8);

/// Told the next piece, or none after the last, or what went wrong; once. It is called where others wait for it, and
/// neither waits nor computes on the model's threads.
pub type Taker = Box<dyn FnOnce(Result<Option<Piece>>) + Send>;

/// What the writer, which is a thread of the scheduler, shares with whoever takes its pieces.
pub(crate) struct Outlet {
    text: Arc<Text>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Who waits for a piece.
    taker: Option<Taker>,
    /// What is written and not taken.
    piece: Piece,
    /// Where the text is after that; none if nothing was written since the last one.
    point: Option<Point>,
    /// When the last piece was taken.
    since: Instant,
    stage: Stage,
    /// Whether the session may do something else.
    is_ended: bool,
}

enum Stage {
    Writing,
    /// All is written, or nothing more can be; the last piece is still to be taken.
    Written(Result<()>),
    Over,
}

impl Outlet {
    /// The outlet of a call on `text`, which is to be begun.
    pub(crate) fn new(text: &Arc<Text>) -> Arc<Self> {
        let inner = Inner {
            taker: None,
            piece: Piece::default(),
            point: None,
            since: Instant::now(),
            stage: Stage::Writing,
            is_ended: false,
        };
        Arc::new(Self { text: Arc::clone(text), inner: Mutex::new(inner) })
    }

    /// Begins the call.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub(crate) fn begin(self: &Arc<Self>) -> Result<()> {
        self.text.begin(self)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `taker` told the next piece.
    pub(crate) fn pull(&self, taker: Taker) {
        let mut inner = self.lock();
        if inner.taker.is_some() {
            drop(inner);
            return taker(Err(Error::Busy { what: "generation" }));
        }
        inner.taker = Some(taker);
        let is_writing = matches!(inner.stage, Stage::Writing);
        self.hand_over(inner);
        if is_writing {
            self.text.scheduler.wake();
        }
    }

    /// Adds what was written; the text is at `point` after it.
    pub(crate) fn put(&self, piece: Piece, point: Point) {
        let mut inner = self.lock();
        if !matches!(inner.stage, Stage::Writing) {
            return;
        }
        inner.piece.append(piece);
        inner.point = Some(point);
        self.hand_over(inner);
    }

    /// Nothing more will be written.
    pub(crate) fn end(&self, end: Result<End>) {
        let mut inner = self.lock();
        if !matches!(inner.stage, Stage::Writing) {
            return;
        }
        inner.stage = Stage::Written(end.map(|end| inner.piece.end = Some(end)));
        self.hand_over(inner);
    }

    /// How much more is wanted. One token is written ahead, so that whoever takes the last one has time to come
    /// back.
    pub(crate) fn demand(&self) -> Demand {
        let inner = self.lock();
        match inner.stage {
            Stage::Written(_) | Stage::Over => Demand::Never,
            Stage::Writing if inner.taker.is_some() || inner.point.is_none() => Demand::Now,
            Stage::Writing => Demand::Later,
        }
    }

    /// Gives whoever waits what is there, if it is time.
    fn hand_over(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.taker.is_none() {
            return;
        }
        let result = match std::mem::replace(&mut inner.stage, Stage::Over) {
            Stage::Writing => {
                inner.stage = Stage::Writing;
                if inner.point.is_none() || inner.since.elapsed() < PIECE {
                    return;
                }
                Ok(Some(self.next_piece(&mut inner)))
            }
            Stage::Written(Ok(())) => {
                let piece = self.next_piece(&mut inner);
                self.end_call(&mut inner);
                Ok(Some(piece))
            }
            Stage::Written(Err(error)) if inner.point.is_some() => {
                inner.stage = Stage::Written(Err(error));
                Ok(Some(self.next_piece(&mut inner)))
            }
            Stage::Written(Err(error)) => {
                self.end_call(&mut inner);
                Err(error)
            }
            Stage::Over => Ok(None),
        };
        let taker = inner.taker.take();
        drop(inner);
        if let Some(tell) = taker {
            tell(result);
        }
    }

    /// The session may do something else from here on.
    fn end_call(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.is_ended, true) {
            self.text.end();
        }
    }

    /// What was written becomes part of the text.
    fn next_piece(&self, inner: &mut Inner) -> Piece {
        inner.since = Instant::now();
        if let Some(point) = inner.point.take() {
            self.text.set_point(point);
        }
        std::mem::take(&mut inner.piece)
    }
}

impl Call for Outlet {
    /// Whoever waits is told [`Error::Aborted`], and what was not taken is not part of the text.
    fn abort(&self) {
        let mut inner = self.lock();
        if matches!(inner.stage, Stage::Over) {
            return;
        }
        let taker = inner.taker.take();
        // Whoever comes later is told, once.
        inner.stage = if taker.is_some() { Stage::Over } else { Stage::Written(Err(Error::Aborted)) };
        (inner.point, inner.piece) = (None, Piece::default());
        self.end_call(&mut inner);
        drop(inner);
        self.text.scheduler.wake();
        if let Some(tell) = taker {
            tell(Err(Error::Aborted));
        }
    }
}
