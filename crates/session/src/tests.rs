use rwkv_core::model::Network;
use rwkv_core::{LoadOptions, Model, ModelConfig, Sampler, SamplerOptions};
use rwkv_text::{Decoder, Tokenizer};

use super::*;

/// A model of bytes with values that are all different.
fn model() -> Model {
    model_of(256)
}

fn model_of(n_vocab: usize) -> Model {
    let config = ModelConfig::v4(n_vocab, 32, 2);
    let (_, layout, _) = Network::new(&config);
    let mut seed = 1_u32;
    let mut value = |scale: f32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let scale = |name: &str| if name.contains("head") { 0.6 } else { 0.9 };
    let values = layout
        .specs()
        .iter()
        .map(|spec| (0..spec.len()).map(|_| value(scale(&spec.name))).collect())
        .collect();
    Model::from_parameters(config, values, LoadOptions { threads: Some(2), isa: None }.start_cpu().unwrap())
}

fn session(model: &Model) -> Session {
    Session::new(model, Some(&Tokenizer::bytes())).unwrap()
}

fn options(seed: u64, max_tokens: usize) -> GenerateOptions {
    let sampler = SamplerOptions { seed, temperature: 1.0, ..Default::default() };
    GenerateOptions { max_tokens, sampler, ignore_end_of_text: true, ..Default::default() }
}

fn write(session: &Session, prompt: &str, options: &GenerateOptions) -> Piece {
    session.generate(prompt, options).unwrap().rest_with(rwkv_core::go_on).unwrap()
}

/// The same with plain calls: tokens, and the logits and the state after them.
fn plain(model: &Model, prompt: &str, options: &GenerateOptions) -> (Vec<u32>, Vec<f32>, rwkv_core::State) {
    let mut state = model.new_state();
    let mut sampler = Sampler::new(options.sampler.clone()).unwrap();
    let prompt: Vec<_> = prompt.bytes().map(u32::from).collect();
    let mut logits = model.eval(&prompt, &mut state).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..options.max_tokens {
        let token = sampler.sample(&logits);
        tokens.push(token);
        logits = model.eval(&[token], &mut state).unwrap();
    }
    (tokens, logits, state)
}

fn text_of(tokens: &[u32]) -> String {
    let mut decoder = Decoder::default();
    let bytes: Vec<_> = tokens.iter().map(|&token| token as u8).collect();
    decoder.push(&bytes) + &decoder.finish()
}

#[test]
fn what_is_written_is_what_a_plain_loop_writes() {
    let model = model();
    for seed in 0..20 {
        let options = options(seed, 60);
        let session = session(&model);
        let piece = write(&session, "It was ", &options);
        let (tokens, logits, state) = plain(&model, "It was ", &options);
        assert_eq!(piece.tokens, tokens);
        assert_eq!(piece.text, text_of(&tokens));
        assert_eq!(piece.end, Some(End::Length));
        assert_eq!(*session.state(), state);
        assert_eq!(session.logits().as_deref(), Some(&*logits));
    }
}

#[test]
fn a_second_call_goes_on_where_the_first_ended() {
    let model = model();
    let greedy = |max_tokens| GenerateOptions {
        max_tokens,
        sampler: SamplerOptions { temperature: 0.0, ..Default::default() },
        ignore_end_of_text: true,
        ..Default::default()
    };
    let session = session(&model);
    let first = write(&session, "It was ", &greedy(13));
    let second = write(&session, "", &greedy(20));
    let (tokens, ..) = plain(&model, "It was ", &greedy(33));
    assert_eq!([first.tokens, second.tokens].concat(), tokens);
}

/// Words that the model writes, one for each place in its text, with what comes before.
fn stops_in(text: &str) -> Vec<(usize, String)> {
    let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    places.windows(4).map(|place| (place[0], text[place[0]..place[3]].to_owned())).collect()
}

#[test]
fn a_stop_is_neither_in_the_text_nor_in_the_state() {
    let model = model();
    let options = options(3, 80);
    let whole = write(&session(&model), "It was ", &options).text;
    for (at, stop) in stops_in(&whole) {
        // Its first occurrence counts. U+FFFD stands for bytes that are no text: nobody can ask for those.
        if whole.find(&stop) != Some(at) || whole[..at].contains('\u{fffd}') {
            continue;
        }
        let stops = vec!["never".to_owned(), stop];
        let session = session(&model);
        let piece = write(&session, "It was ", &GenerateOptions { stop: stops, ..options.clone() });
        assert_eq!((&*piece.text, piece.end), (&whole[..at], Some(End::Stop)));
        // As if the text had been typed.
        let mut typed = model.new_state();
        let tokens: Vec<_> = format!("It was {}", &whole[..at]).bytes().map(u32::from).collect();
        let logits = model.eval(&tokens, &mut typed).unwrap();
        assert_eq!(*session.state(), typed);
        assert_eq!(session.logits().as_deref(), Some(&*logits));
        assert_eq!(piece.tokens, tokens[7..]);
    }
}

/// Pairs of letters that are one token each: a stop can begin within one.
fn pairs() -> Tokenizer {
    let json = r#"{"decoder": {"type": "Fuse"}, "model": {"type": "BPE",
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "ca": 5, "aa": 6},
        "merges": ["a b", "b c", "c a", "a a"]}}"#;
    let directory = std::env::temp_dir().join(format!("rwkv-session-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    let tokenizer = Tokenizer::load(&path).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    tokenizer
}

#[test]
fn of_a_token_that_a_stop_begins_in_the_first_part_stays() {
    let model = model_of(7);
    let tokenizer = pairs();
    let mut within = 0;
    for seed in 0..60 {
        let mut options = GenerateOptions { stop: vec!["bca".to_owned()], ..options(seed, 60) };
        options.sampler.temperature = 5.0;
        let session = Session::new(&model, Some(&tokenizer)).unwrap();
        let piece = write(&session, "ab", &options);
        assert!(!piece.text.contains("bca"));
        let mut state = model.new_state();
        model.eval(&[&[3], &*piece.tokens].concat(), &mut state).unwrap();
        assert_eq!(*session.state(), state);
        assert_eq!(tokenizer.decode(&piece.tokens).unwrap(), piece.text.as_bytes());
        let whole = write(
            &Session::new(&model, Some(&tokenizer)).unwrap(),
            "ab",
            &GenerateOptions { stop: vec![], ..options },
        );
        match whole.text.find("bca") {
            Some(at) => assert_eq!((&*piece.text, piece.end), (&whole.text[..at], Some(End::Stop))),
            None => assert_eq!((&piece.text, piece.end), (&whole.text, Some(End::Length))),
        }
        within += usize::from(piece.end == Some(End::Stop) && !whole.tokens.starts_with(&piece.tokens));
    }
    assert!(within > 0, "no stop began within a token");
}

#[test]
fn the_end_of_a_text_ends_the_writing_and_is_not_read() {
    let model = model();
    // Of bytes, 0 ends a document.
    let whole = (0..200)
        .map(|seed| (seed, plain(&model, "It was ", &options(seed, 60)).0))
        .find(|(_, tokens)| tokens.contains(&0));
    let (seed, tokens) = whole.unwrap();
    let len = tokens.iter().position(|&token| token == 0).unwrap();
    let session = session(&model);
    let piece =
        write(&session, "It was ", &GenerateOptions { ignore_end_of_text: false, ..options(seed, 60) });
    assert_eq!((&*piece.tokens, piece.end), (&tokens[..len], Some(End::EndOfText)));
    let (_, logits, state) = plain(&model, "It was ", &options(seed, len));
    assert_eq!((session.logits().as_deref(), &*session.state()), (Some(&*logits), &state));
}

#[test]
fn a_loop_that_is_left_leaves_what_it_got() {
    let model = model();
    let session = session(&model);
    let (tokens, ..) = plain(&model, "It was ", &options(5, 1000));
    let mut got = Vec::new();
    for piece in session.generate("It was ", &options(5, 100_000)).unwrap() {
        got.extend(piece.unwrap().tokens);
        if got.len() > 20 {
            break;
        }
    }
    let got = &got[..got.len().min(1000)];
    assert_eq!(got, &tokens[..got.len()]);
    let mut state = model.new_state();
    let prompt: Vec<_> = "It was ".bytes().map(u32::from).collect();
    model.eval(&[&prompt, got].concat(), &mut state).unwrap();
    assert_eq!(*session.state(), state);
}

#[test]
fn a_session_does_one_thing_at_a_time_and_calls_that_are_given_up_leave_no_trace() {
    let model = model();
    let session = session(&model);
    session.prompt("It was ").unwrap();
    let before = session.state();
    let writing = session.generate("a ", &options(1, 100_000)).unwrap();
    assert_eq!(session.prompt("b").unwrap_err().code(), "BUSY");
    assert_eq!(session.set_state(session.state()).unwrap_err().code(), "BUSY");
    assert_eq!(session.generate("b", &options(1, 1)).err().unwrap().code(), "BUSY");
    drop(writing);
    assert_eq!(session.state(), before);
    let stopped = session.eval_with(&vec![65; 1_000_000], |_, _| std::ops::ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().code(), "ABORTED");
    assert_eq!(session.state(), before);
    assert_eq!(session.eval(&[]).unwrap_err().code(), "INVALID_OPTION");
    assert_eq!(session.eval(&[1, 300]).unwrap_err().code(), "TOKEN_OUT_OF_RANGE");
    let failing = session.write(vec![1, 300], &options(1, 1)).unwrap().rest_with(rwkv_core::go_on);
    assert_eq!(failing.unwrap_err().code(), "TOKEN_OUT_OF_RANGE");
    assert_eq!(session.state(), before);
    session.prompt("b").unwrap();
}

#[test]
fn many_sessions_at_once_write_what_each_writes_alone() {
    let model = model();
    let alone: Vec<_> = (0..24).map(|seed| plain(&model, "It was ", &options(seed, 40)).0).collect();
    std::thread::scope(|scope| {
        for (seed, alone) in alone.iter().enumerate() {
            let model = &model;
            scope.spawn(move || {
                let piece = write(&session(model), "It was ", &options(seed as u64, 40));
                assert_eq!(&piece.tokens, alone);
            });
        }
    });
}

#[test]
fn without_a_prompt_a_new_text_begins_as_texts_do_and_a_given_state_needs_one() {
    let model = model();
    let (empty, line) = (session(&model), session(&model));
    assert_eq!(write(&empty, "", &options(2, 30)).tokens, write(&line, "\n", &options(2, 30)).tokens);
    let given = session(&model);
    given.set_state(empty.state()).unwrap();
    assert_eq!(given.generate("", &options(2, 30)).err().unwrap().code(), "INVALID_OPTION");
    // The session is not busy after that.
    given.prompt("a").unwrap();
}

#[test]
fn whoever_is_given_up_is_told_even_if_nobody_waits_at_that_moment() {
    let model = model();
    let session = session(&model);
    let mut writing = session.generate("It was ", &options(1, 100_000)).unwrap();
    writing.next().unwrap().unwrap();
    let at = session.state();
    session.abort();
    // The session is free, and where it was.
    assert_eq!(session.state(), at);
    session.prompt("x").unwrap();
    assert_eq!(writing.next().unwrap().unwrap_err().code(), "ABORTED");
    assert!(writing.next().is_none());
    // A model that is fast is asked too.
    let writing = session.generate("It was ", &options(1, 100_000)).unwrap();
    let mut asked = 0;
    let stopped = writing.rest_with(|_, _| {
        asked += 1;
        if asked > 3 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().code(), "ABORTED");
}

#[test]
fn a_text_of_world_ends_at_its_token_0_and_is_evaluated_after_one() {
    let (model, world) = (model_of(1 << 16), Tokenizer::world());
    let session = Session::new(&model, Some(&world)).unwrap();
    let end = |logit_bias, ignore_end_of_text| {
        let sampler = SamplerOptions { logit_bias, temperature: 0.0, ..Default::default() };
        write(
            &session,
            "a",
            &GenerateOptions { max_tokens: 3, sampler, ignore_end_of_text, ..Default::default() },
        )
    };
    let piece = end(vec![(0, 1e6)], false);
    assert_eq!((piece.end, piece.tokens, piece.text), (Some(End::EndOfText), vec![], String::new()));
    assert_eq!(end(vec![(0, 1e6)], true).tokens, [0, 0, 0]);

    let evaluate = |tokenizer: &Tokenizer, initial: &rwkv_core::State| {
        let input = [rwkv_text::source::Input::text("Hello, world!")];
        evaluate_texts(
            &model,
            tokenizer,
            &input,
            &rwkv_text::source::SourceOptions::default(),
            (initial, None),
            rwkv_core::go_on,
        )
        .unwrap()
    };
    let found = evaluate(&world, &model.new_state());
    let tokens = [0, 33155, 45, 40213, 34];
    assert_eq!(found.evaluation, model.evaluate(&tokens, None, rwkv_core::go_on).unwrap());
    assert_eq!((found.evaluation.n_tokens, found.n_bytes), (4, 13));
    // A state that has read something has a text before it already.
    let mut state = model.new_state();
    model.eval(&[261], &mut state).unwrap();
    let found = evaluate(&world, &state);
    let expected = model.evaluate_from(&state, &tokens[1..], None, rwkv_core::go_on).unwrap();
    assert_eq!(found.evaluation, expected);
}
