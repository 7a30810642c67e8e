//! The steps from inputs to a finished folder.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rwkv_core::{Error, Result};
use serde_json::{Map, Value};

use super::batches::Place;
use super::division::{Division, Set, Survey};
use super::inputs::{Input, Saved, check_same, find, save_stdin, stdin_path};
use super::recipe::other_shakespeare;
use super::state::{Counts, Finished, Head, Made, Stage, State, finished_path, load, partial_path, save};
use super::tokens::{Encoding, Output, check_len, finish, paths, width};
use super::vocabulary::Text;
use super::{PrepareOptions, Prepared, Progress, Recipe, Step, Vocabulary};
use crate::source::Sources;
use crate::token_file::{TokenWriter, write_meta};
use crate::{Characters, Tokenizer};

/// Everything that the steps share.
pub(super) struct Steps<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) options: &'a PrepareOptions,
    pub(super) control: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

/// The two streams of text.
struct Texts {
    inputs: Sources,
    val: Option<Sources>,
}

impl Steps<'_> {
    pub(super) fn run(mut self) -> Result<Prepared> {
        let PrepareOptions { out, force, .. } = self.options;
        let (finished_at, partial_at) = (finished_path(out), partial_path(out));
        let (named, options) = self.named()?;
        let finished: Option<Finished> = if *force { None } else { load(&finished_at)? };
        if let Some(finished) = &finished {
            finished.head.check_options(&options, &finished_at)?;
        }
        // What was downloaded may be gone by now.
        let is_download = self.options.from.is_none() && !matches!(self.recipe, Recipe::Inputs(_));
        if let Some(finished) = finished.clone().filter(|_| is_download) {
            return self.left(finished);
        }
        let mut state: Option<State> = match load(&partial_at) {
            Err(_) if *force => None,
            state => state?,
        };
        if let Some(old) = &state
            && let Err(error) = old.head.check_options(&options, &partial_at)
        {
            if !force {
                return Err(error);
            }
            state = None;
        }
        let (texts, head) = self.open(options)?;
        if let Some(finished) = finished {
            check_same(&finished.head.inputs, &head.inputs, out)?;
            check_same(&finished.head.val_inputs, &head.val_inputs, out)?;
            return self.left(finished);
        }
        if let Some(old) = &state {
            let same = check_same(&old.head.inputs, &head.inputs, out)
                .and_then(|()| check_same(&old.head.val_inputs, &head.val_inputs, out));
            if let Err(error) = same {
                if !force {
                    return Err(error);
                }
                state = None;
            }
        }
        let (mut state, tokenizer) = match state {
            Some(state) => {
                let tokenizer = self.tokenizer_of(&state, named)?;
                (state, tokenizer)
            }
            None => self.begin(&texts, head, named)?,
        };
        if state.stage != Stage::Finish {
            if !state.may_replace {
                check_free(&finals(out))?;
            }
            self.write_tokens(&texts, &mut state, &tokenizer)?;
        }
        self.finish(state, &tokenizer)
    }

    /// The tokenizer that a file or a name stands for, if it does, and the options as they are recorded.
    fn named(&self) -> Result<(Option<Tokenizer>, Map<String, Value>)> {
        let vocabulary = self.options.tokenizer.clone().unwrap_or_else(|| self.recipe.tokenizer());
        let (tokenizer, crc32) = match vocabulary {
            Vocabulary::File(path) => {
                let tokenizer = Tokenizer::load(path)?;
                let crc32 = crc32fast::hash(tokenizer.to_json().as_bytes());
                (Some(tokenizer), Some(crc32))
            }
            Vocabulary::Kind(kind) => (Tokenizer::of_kind(kind)?, None),
            Vocabulary::Trained { .. } => (None, None),
        };
        Ok((tokenizer, self.options.to_json(self.recipe, crc32)))
    }

    fn ask(&mut self, step: Step, done: u64, total: u64, tokens: u64) -> Result<()> {
        match (self.control)(Progress { step, done, total, tokens }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted),
        }
    }

    /// Finds the inputs: downloads them, or saves standard input, where that is needed.
    fn open(&mut self, options: Map<String, Value>) -> Result<(Texts, Head)> {
        let PrepareOptions { out, from, source, val, .. } = self.options;
        let inputs = if let Some(from) = from {
            from.clone()
        } else {
            let recipe = self.recipe;
            recipe.fetch(out, |done, total| {
                (self.control)(Progress { step: Step::Download, done, total, tokens: 0 })
            })?
        };
        let is_stdin = |inputs: &[String]| inputs.iter().any(|input| input == "-");
        let saved: Option<Saved> = if is_stdin(&inputs) || val.as_deref().is_some_and(is_stdin) {
            Some(save_stdin(out, source.stdin, |done| self.ask(Step::Save, done, 0, 0))?)
        } else {
            None
        };
        let (inputs, found) = find(&inputs, source, saved.as_ref())?;
        let (val, val_found): (Option<Sources>, Vec<Input>) = match val {
            Some(val) => {
                let (sources, found) = find(val, source, saved.as_ref())?;
                (Some(sources), found)
            }
            None => (None, Vec::new()),
        };
        let mut head = Head::new(options, found, val_found);
        if let ([file], true, Some(_)) = (inputs.files(), self.recipe.is_shakespeare(), from) {
            let path = file.path.clone();
            head.notes.extend(other_shakespeare(&path, |done, total| {
                (self.control)(Progress { step: Step::Download, done, total, tokens: 0 })
            })?);
        }
        Ok((Texts { inputs, val }, head))
    }

    /// What is said of a folder that was finished before.
    fn left(&self, finished: Finished) -> Result<Prepared> {
        let out = &self.options.out;
        let width = width(finished.tokenizer.n_vocab);
        for (path, counts) in paths(out).iter().zip([Some(finished.train), finished.val]) {
            if let Some(counts) = counts {
                check_len(path, counts.tokens, width)?;
            }
        }
        remove(&stdin_path(out, self.options.source.stdin))?;
        Ok(self.prepared(finished, true))
    }

    fn prepared(&self, finished: Finished, was_finished: bool) -> Prepared {
        let Finished { head, tokenizer, train, val } = finished;
        Prepared {
            out: self.options.out.clone(),
            kind: tokenizer.kind,
            n_vocab: tokenizer.n_vocab,
            end_of_text: tokenizer.end_of_text,
            train,
            val,
            was_finished,
            notes: head.notes,
        }
    }

    /// All that is needed before the first token.
    fn begin(
        &mut self,
        texts: &Texts,
        mut head: Head,
        named: Option<Tokenizer>,
    ) -> Result<(State, Tokenizer)> {
        let PrepareOptions { out, force, .. } = self.options;
        if *force {
            // From here on the folder is not finished any more.
            remove(&finished_path(out))?;
        } else {
            let partial = paths(out).map(|path| TokenWriter::partial_path(&path));
            check_free(&[&finals(out)[..], &partial].concat())?;
        }
        let val_fraction = self.options.val_fraction(self.recipe);
        let mut count = |sources: &Sources, fraction| {
            let total = sources.total_bytes().unwrap_or(0);
            Survey::of(sources, fraction, |done| self.ask(Step::Count, done, total, 0))
        };
        let survey = count(&texts.inputs, val_fraction)?;
        let val_survey = texts.val.as_ref().map(|val| count(val, 0.0)).transpose()?;
        let has_ends = survey.has_ends() || val_survey.is_some_and(|survey| survey.has_ends());
        let division = survey.division(val_fraction, self.options.seed);
        let tokenizer = match named {
            Some(tokenizer) => tokenizer,
            None => self.make(texts, division, has_ends, &mut head.notes)?,
        };
        let end_of_text = tokenizer.end_of_text().filter(|_| has_ends);
        if has_ends && end_of_text.is_none() {
            let expected = "one with an end of text (such as <|endoftext|>), because there are several documents; or \
                            put them together in one file";
            return Err(Error::option("tokenizer", "one without an end of text", expected));
        }
        tokenizer.save(tokenizer_partial(out))?;
        let state = State {
            head,
            may_replace: *force,
            tokenizer: Made {
                kind: tokenizer.kind(),
                n_vocab: tokenizer.n_vocab(),
                end_of_text,
                crc32: crc32fast::hash(tokenizer.to_json().as_bytes()),
            },
            survey,
            val_survey,
            stage: Stage::Inputs,
            place: Place::default(),
            train: Counts::default(),
            val: (texts.val.is_some() || val_fraction > 0.0).then(Counts::default),
        };
        save(&partial_path(out), &state)?;
        Ok((state, tokenizer))
    }

    /// Makes the tokenizer of the text.
    fn make(
        &mut self,
        texts: &Texts,
        division: Division,
        has_ends: bool,
        notes: &mut Vec<String>,
    ) -> Result<Tokenizer> {
        let (batch, threads) = (self.options.batch, self.threads());
        let text = |sources, division| Text { sources, division, batch, threads };
        if let Some(Vocabulary::Trained { vocab_size }) = self.options.tokenizer {
            let total = texts.inputs.total_bytes().unwrap_or(0);
            let (words, is_part) =
                text(&texts.inputs, division).words(|done| self.ask(Step::Words, done, total, 0))?;
            if is_part {
                notes.push("the tokenizer was trained on the first GiB of the text".to_owned());
            }
            return words.train(vocab_size, |done, total| {
                (self.control)(Progress { step: Step::Train, done, total, tokens: 0 })
            });
        }
        let mut seen = BTreeSet::new();
        for sources in [Some(&texts.inputs), texts.val.as_ref()].into_iter().flatten() {
            let total = sources.total_bytes().unwrap_or(0);
            text(sources, Division::All(Set::Train))
                .characters(&mut seen, |done| self.ask(Step::Characters, done, total, 0))?;
        }
        let characters = Characters::of(seen)
            .map_err(|problem| Error::option("inputs", problem, "texts with at least one character"))?;
        let is_nanogpt = *self.recipe == Recipe::ShakespeareChar;
        let characters = if is_nanogpt { characters } else { characters.with_bytes() };
        Ok(if has_ends { characters.with_end_of_text() } else { characters }.into())
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => super::available_threads(),
            threads => threads,
        }
    }

    /// The tokenizer that an earlier call began with.
    fn tokenizer_of(&self, state: &State, named: Option<Tokenizer>) -> Result<Tokenizer> {
        let partial = tokenizer_partial(&self.options.out);
        let path = if partial.is_file() { partial } else { self.options.out.join("tokenizer.json") };
        let tokenizer = match named {
            Some(tokenizer) => tokenizer,
            None => Tokenizer::load(&path)?,
        };
        if crc32fast::hash(tokenizer.to_json().as_bytes()) == state.tokenizer.crc32 {
            return Ok(tokenizer);
        }
        let problem = "it is not the tokenizer that this folder was begun with; begin anew (force)";
        Err(Error::Tokenizer { path, problem: problem.to_owned() })
    }

    fn write_tokens(&mut self, texts: &Texts, state: &mut State, tokenizer: &Tokenizer) -> Result<()> {
        let PrepareOptions { out, save_every, batch, .. } = self.options;
        let threads = self.threads();
        let val_fraction = self.options.val_fraction(self.recipe);
        let (survey, val_survey, end) = (state.survey, state.val_survey, state.tokenizer.end_of_text);
        let bytes = |sources: &Sources| sources.total_bytes().unwrap_or(0);
        let first = bytes(&texts.inputs);
        let total = first + texts.val.as_ref().map_or(0, bytes);
        let mut output = Output::open(state, out, *save_every)?;
        if output.state.stage == Stage::Inputs {
            let division = survey.division(val_fraction, self.options.seed);
            let end = end.filter(|_| survey.has_ends());
            let encoding =
                Encoding { sources: &texts.inputs, division, tokenizer, end, batch: *batch, threads };
            encoding.run(&mut output, |done, tokens| self.ask(Step::Tokens, done, total, tokens))?;
            (output.state.stage, output.state.place) = (Stage::Val, Place::default());
            output.save()?;
        }
        if let (Some(val), Some(survey)) = (&texts.val, val_survey) {
            let (division, end) = (Division::All(Set::Val), end.filter(|_| survey.has_ends()));
            let encoding = Encoding { sources: val, division, tokenizer, end, batch: *batch, threads };
            encoding.run(&mut output, |done, tokens| self.ask(Step::Tokens, first + done, total, tokens))?;
        }
        for (name, counts) in [("training", Some(output.state.train)), ("validation", output.state.val)] {
            if counts.is_some_and(|counts| counts.tokens == 0) {
                let problem = format!(
                    "the inputs have no text for {name}: {} bytes in all; give more text, or another val_fraction, or \
                     a validation set of its own",
                    output.state.train.bytes + output.state.val.map_or(0, |val| val.bytes)
                );
                return Err(Error::Data { path: out.clone(), problem });
            }
        }
        output.state.stage = Stage::Finish;
        output.save()
    }

    /// Gives everything its name, `prepare.json` last.
    fn finish(&mut self, state: State, tokenizer: &Tokenizer) -> Result<Prepared> {
        let out = &self.options.out;
        finish(&state, out)?;
        tokenizer.save(out.join("tokenizer.json"))?;
        if *self.recipe == Recipe::ShakespeareChar
            && let Some(characters) = tokenizer.as_characters()
        {
            write_meta(out.join("meta.pkl"), &characters.iter().collect::<Vec<_>>())?;
        } else {
            // It would be taken for the vocabulary of these tokens.
            remove(&out.join("meta.pkl"))?;
        }
        if state.val.is_none() {
            for name in ["val.bin", "val.bin.json"] {
                remove(&out.join(name))?;
            }
        }
        let State { head, tokenizer, train, val, .. } = state;
        let finished = Finished { head, tokenizer, train, val };
        save(&finished_path(out), &finished)?;
        for path in [partial_path(out), tokenizer_partial(out), stdin_path(out, self.options.source.stdin)] {
            remove(&path)?;
        }
        Ok(self.prepared(finished, false))
    }
}

/// The files that would be replaced, or be taken for ours.
fn finals(out: &Path) -> [PathBuf; 4] {
    ["train.bin", "val.bin", "tokenizer.json", "meta.pkl"].map(|name| out.join(name))
}

/// # Errors
/// [`Error::Data`] for a file that is there.
fn check_free(names: &[PathBuf]) -> Result<()> {
    for path in names {
        if path.try_exists().map_err(Error::io("open", path))? {
            let problem = "this file is there already, and not of a data set that is finished or can be gone on \
                           with; take another folder, or have it replaced (force)";
            return Err(Error::Data { path: path.clone(), problem: problem.to_owned() });
        }
    }
    Ok(())
}

fn tokenizer_partial(out: &Path) -> PathBuf {
    out.join("tokenizer.partial.json")
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
