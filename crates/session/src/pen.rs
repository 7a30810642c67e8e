//! The loop that writes: choose a token, read it, and so on.

use std::sync::Arc;

use rwkv_core::schedule::{Demand, Next, Reader};
use rwkv_core::{
    Error, LogProbabilities, Result, Sampler, SamplerKind, SamplerOptions, State,
    log_probabilities as log_probabilities_of,
};
use rwkv_text::{Decoder, Tokenizer};

use crate::outlet::Outlet;
use crate::stop::{self, Found};
use crate::text::Point;
use crate::{End, GenerateOptions, Piece};

/// Writes on in a text. The scheduler asks it for the next token whenever the one before has been read.
pub(crate) struct Pen {
    outlet: Arc<Outlet>,
    tokenizer: Tokenizer,
    options: GenerateOptions,
    sampler: Sampler,
    decoder: Decoder,
    /// Tokens that were chosen.
    count: usize,
    /// What is not handed over, because its last token is not a whole character, or may be part of a stop.
    recent: Recent,
    /// What is to follow once the tokens under way are read.
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    /// The next token.
    Write,
    /// The end, for this reason.
    End(End),
}

/// Tokens since the last place at which the text was whole.
struct Recent {
    /// That place; none before the first token.
    start: Option<Point>,
    tokens: Vec<Recently>,
    text: String,
    /// No stop begins before this byte of `text`.
    searched: usize,
}

struct Recently {
    token: u32,
    /// If it was chosen, and that is asked for.
    log_probabilities: Option<LogProbabilities>,
    /// How long `text` is after it.
    end: usize,
    /// Whether it ends with a whole character.
    is_whole: bool,
}

impl Pen {
    pub(crate) fn new(outlet: Arc<Outlet>, tokenizer: &Tokenizer, options: &GenerateOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            outlet,
            tokenizer: tokenizer.clone(),
            sampler: Sampler::new(with_uncounted(options.sampler.clone(), tokenizer))?,
            options: options.clone(),
            decoder: Decoder::default(),
            count: 0,
            recent: Recent { start: None, tokens: Vec::new(), text: String::new(), searched: 0 },
            then: Then::Write,
        })
    }

    /// All tokens so far have been read, and the text is at `point`: what comes next.
    pub(crate) fn go_on(&mut self, point: &Point) -> Next {
        let end = match self.then {
            Then::Write => None,
            Then::End(end) => Some(end),
        };
        let is_whole = self.recent.tokens.last().is_none_or(|last| last.is_whole)
            && self.recent.searched == self.recent.text.len();
        if let Some(end) = end.or((self.count == self.options.max_tokens).then_some(End::Length)) {
            self.recent.text += &self.decoder.finish();
            return self.end(point.clone(), end);
        }
        if is_whole {
            if !self.recent.tokens.is_empty() {
                let piece = self.take();
                self.outlet.put(piece, point.clone());
            }
            self.recent.start = Some(point.clone());
        }
        match self.write(point) {
            Ok(next) => next,
            Err(error) => {
                self.outlet.end(Err(error));
                Next::End
            }
        }
    }

    /// Chooses a token.
    fn write(&mut self, point: &Point) -> Result<Next> {
        let logits = point.logits.as_deref().unwrap_or_default();
        let token = self.sampler.sample(logits);
        self.count += 1;
        if Some(token) == self.tokenizer.end_of_text() && !self.options.ignore_end_of_text {
            self.recent.text += &self.decoder.finish();
            return Ok(self.end(point.clone(), End::EndOfText));
        }
        let bytes = self.tokenizer.decode(&[token])?;
        self.recent.text += &self.decoder.push(&bytes);
        let is_whole = self.decoder.is_whole();
        let log_probabilities = self.options.log_probabilities;
        self.recent.tokens.push(Recently {
            token,
            log_probabilities: log_probabilities.map(|n_best| log_probabilities_of(logits, token, n_best)),
            end: self.recent.text.len(),
            is_whole,
        });
        match stop::find(&self.options.stop, &self.recent.text, self.recent.searched) {
            Found::NotBefore(at) => {
                self.recent.searched = at;
                Ok(Next::Read(vec![token]))
            }
            Found::At(at) => self.stop_at(at, point),
        }
    }

    /// Ends the text before the byte `at` of what was written recently: the state is to be the one after exactly
    /// that.
    fn stop_at(&mut self, at: usize, point: &Point) -> Result<Next> {
        let Recent { start, tokens, text, .. } = &mut self.recent;
        let whole =
            tokens.iter().rposition(|token| token.is_whole && token.end <= at).map_or(0, |last| last + 1);
        let known = tokens[..whole].last().map_or(0, |last| last.end);
        // A token of which only a part comes before the stop is written anew, without the rest.
        let rest = self.tokenizer.encode(&text[known..at])?;
        text.truncate(at);
        // The last token was chosen, but not read.
        let is_here = whole + 1 == tokens.len() && rest.is_empty();
        tokens.truncate(whole);
        let old: Vec<_> = tokens.iter().map(|token| token.token).collect();
        tokens.extend(rest.iter().map(|&token| Recently {
            token,
            log_probabilities: None,
            end: at,
            is_whole: true,
        }));
        let start = start
            .clone()
            .ok_or_else(|| Error::Internal { what: "a stop before the first token".to_owned() })?;
        if is_here {
            return Ok(self.end(point.clone(), End::Stop));
        }
        if tokens.is_empty() {
            return Ok(self.end(start, End::Stop));
        }
        self.then = Then::End(End::Stop);
        Ok(Next::ReadFrom(start.state, [old, rest].concat()))
    }

    /// The text is over, and at `point`.
    fn end(&mut self, point: Point, end: End) -> Next {
        let piece = self.take();
        self.outlet.put(piece, point);
        self.outlet.end(Ok(end));
        Next::End
    }

    /// What was written recently.
    fn take(&mut self) -> Piece {
        let Recent { tokens, text, searched, .. } = &mut self.recent;
        *searched = 0;
        let mut piece = Piece { text: std::mem::take(text), ..Piece::default() };
        for Recently { token, log_probabilities, .. } in tokens.drain(..) {
            piece.tokens.push(token);
            if self.options.log_probabilities.is_some() {
                piece.log_probabilities.push(log_probabilities);
            }
        }
        piece
    }
}

impl Reader for Pen {
    fn next(&mut self, logits: &[f32], state: &Arc<State>) -> Next {
        self.go_on(&Point { state: Arc::clone(state), logits: Some(logits.into()) })
    }

    fn fail(&mut self, error: Error) {
        self.outlet.end(Err(error));
    }

    fn demand(&self) -> Demand {
        self.outlet.demand()
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        self.outlet.end(Err(Error::Internal { what: "the thread that writes has stopped".to_owned() }));
    }
}

/// Options with the tokens that RWKV's own programs do not count, unless the caller named others: those whose text is
/// part of a space, a tab and the ten digits in a row (`PIPELINE.generate` of PyPI `rwkv`, `utils.py`).
fn with_uncounted(mut options: SamplerOptions, tokenizer: &Tokenizer) -> SamplerOptions {
    const UNCOUNTED: &str = " \t0123456789";
    if options.sampler == SamplerKind::Rwkv && options.uncounted.is_empty() {
        let len = UNCOUNTED.len();
        let parts = (0..len).flat_map(|start| (start + 1..=len).map(move |end| &UNCOUNTED[start..end]));
        let tokens = parts.filter_map(|part| match tokenizer.encode(part).as_deref() {
            Ok(&[token]) => Some(token),
            _ => None,
        });
        options.uncounted = tokens.collect();
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_space_and_tab_are_uncounted_by_rwkv_s_rules_alone() {
        let of = |sampler, uncounted: &[u32], tokenizer: &Tokenizer| {
            let options = SamplerOptions { sampler, uncounted: uncounted.to_vec(), ..Default::default() };
            let mut found = with_uncounted(options, tokenizer).uncounted;
            found.sort_unstable();
            found
        };
        let world = Tokenizer::world();
        let found = of(SamplerKind::Rwkv, &[], &world);
        let texts: Vec<_> =
            found.iter().map(|&t| String::from_utf8(world.decode(&[t]).unwrap()).unwrap()).collect();
        // Byte tokens come first, in the order of bytes.
        assert_eq!(texts[..12].concat(), "\t 0123456789");
        assert!(texts.iter().all(|text| " \t0123456789".contains(text.as_str())), "{texts:?}");
        assert!(of(SamplerKind::Usual, &[], &world).is_empty());
        assert_eq!(of(SamplerKind::Rwkv, &[7], &world), [7]);
        let letters = Tokenizer::characters_of("ab1").unwrap();
        assert_eq!(of(SamplerKind::Rwkv, &[], &letters), letters.encode("1").unwrap());
    }
}
