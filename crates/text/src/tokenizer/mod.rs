//! Text as tokens and back.

mod world;
