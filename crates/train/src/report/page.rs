//! The page of a report: of one run, or of several beside each other.

use super::MARK;
use super::read::RunView;
use super::series::{MAX_POINTS, Point, readable, reduce, smooth, speed, to_json};
use super::summary::Setting;
use super::text::{clock, count, escape, joined, json_string, significant, whole_words};
use crate::run::Sample;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// uPlot by Leon Sorokin, MIT: `uplot.LICENSE`. The files are those of its package on npm.
const UPLOT_STYLE: &str = include_str!("uplot.css");
const UPLOT_SCRIPT: &str = include_str!("uplot.min.js");

/// How many samples a page shows, beside the one of the model that was kept.
const MAX_SAMPLES: usize = 12;

/// With more values than that, their trend is drawn over them.
const MAX_PLAIN: usize = 300;

/// What losses are measured in.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// Nats a token.
    Nats,
    /// Bits a byte of the text.
    Bits,
}

impl Unit {
    /// What a loss of a run is multiplied by.
    fn scale(self, run: &RunView) -> f64 {
        match self {
            Self::Nats => 1.0,
            Self::Bits => run.bits_per_byte(1.0).unwrap_or(f64::NAN),
        }
    }
}

/// The report of one run, or of several whose curves are laid over each other: a page of HTML that loads nothing.
pub fn render(runs: &[RunView]) -> String {
    let (title, kind, unit) = match runs {
        [run] => (run.name.clone(), "Training run", Unit::Nats),
        // Losses of different tokenizers can be compared as bits a byte alone.
        runs if runs.iter().all(|run| run.bytes_per_token().is_some()) => {
            (format!("{} runs", runs.len()), "Training runs", Unit::Bits)
        }
        runs => (format!("{} runs", runs.len()), "Training runs", Unit::Nats),
    };
    let body = match runs {
        [run] => one(run),
        runs => several(runs, unit),
    };
    let title = escape(&title);
    let data = data(runs, unit);
    format!(
        r#"{MARK}<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · rwkv</title>
<style>{UPLOT_STYLE}
{STYLE}</style>
</head>
<body>
<header>
<p class="kind">{kind}</p>
<h1>{title}</h1>
{body}
</main>
<script>{UPLOT_SCRIPT}</script>
<script type="application/json" id="data">{data}</script>
<script type="module">
{SCRIPT}</script>
</body>
</html>
"#
    )
}

fn one(run: &RunView) -> String {
    let lead = lead(run);
    let figures = joined(figures(run).into_iter().map(|(label, value, note)| {
        let (value, note) = (escape(&value), escape(&note));
        format!("<div><span>{label}</span><strong>{value}</strong><small>{note}</small></div>\n")
    }));
    let token = run.token().unwrap_or("token");
    let losses = losses(&format!(
        "Mean cross-entropy, in nats a {token}. Validation is over the whole held-out tenth of the text; the bold \
         curves are the local trend of the faint ones."
    ));
    let (samples, panes, options) =
        (samples(run), panes(std::slice::from_ref(run)), options(&run.settings()));
    format!(
        "<p class=\"lead\">{lead}</p>\n</header>\n<main>\n{losses}<section class=\"figures\">\n{figures}</section>\n\
         {samples}{panes}{options}"
    )
}

fn several(runs: &[RunView], unit: Unit) -> String {
    let note = match unit {
        Unit::Bits => "Validation loss in bits a byte of the text.".to_owned(),
        Unit::Nats => {
            let same = runs.windows(2).all(|pair| pair[0].tokenizer == pair[1].tokenizer);
            let why = if same {
                "All runs have the same tokens, so their losses can be compared."
            } else {
                "These runs have different tokens, and how many bytes these stand for is not known of all of them: \
                 their losses cannot be compared with each other."
            };
            format!("Validation loss in nats a token. {why}")
        }
    };
    let curves =
        "Thin curves are the trend of training; dashed lines stand at the step of the model that was kept.";
    let (losses, panes) = (losses(&format!("{note} {curves}")), panes(runs));
    let names: Vec<_> = runs.iter().map(|run| escape(&run.name)).collect();
    let names = names.join(", ");
    let (table, differing) = (compared(runs), differing(runs));
    format!("<p class=\"lead\">{names}</p>\n</header>\n<main>\n{losses}{table}{differing}{panes}")
}

/// What the file is that the run leaves.
fn lead(run: &RunView) -> String {
    let max = count(run.config.options.max_steps as f64);
    let sentence = match (&run.kept, &run.file, run.best()) {
        (Some(kept), ..) => {
            let loss = match kept.val_loss {
                Some(loss) => format!("Its validation loss is <strong>{loss:.3}</strong>."),
                None => "Its validation loss was not taken.".to_owned(),
            };
            let unsound = if kept.is_sound { "" } else { " It is worse than guessing." };
            let step = count(kept.step as f64);
            format!(
                "{} is the model of <strong>step {step}</strong> of {max}. {loss}{unsound}",
                escape(&kept.file)
            )
        }
        (None, Some(file), best) => {
            let best = best.map(|(step, loss)| {
                format!(
                    " The lowest validation loss of the run was {loss:.3}, after step {}.",
                    count(step as f64)
                )
            });
            let file = escape(file);
            format!("Nothing says of which step {file} is.{}", best.unwrap_or_default())
        }
        (None, None, _) => "The run has written no model yet.".to_owned(),
    };
    let steps = run.last_step();
    if steps < run.config.options.max_steps {
        format!("{sentence} The run has done {} steps.", count(steps as f64))
    } else {
        sentence
    }
}

/// Label, value and a note below it.
fn figures(run: &RunView) -> Vec<(&'static str, String, String)> {
    let summary = run.summary();
    let steps = |step: u64| format!("step {} of {}", count(step as f64), count(summary.max_steps as f64));
    let mut figures = Vec::new();
    let kept =
        summary.kept.as_ref().and_then(|kept| Some((kept.step, f64::from(kept.val_loss?), &kept.file)));
    let best = summary.best.map(|best| (best.step, best.loss));
    let loss = if let Some((step, loss, file)) = kept {
        figures.push(("Validation loss", format!("{loss:.3}"), format!("{file}, of {}", steps(step))));
        Some((step, loss))
    } else if let Some((step, loss)) = best {
        figures.push(("Lowest validation loss", format!("{loss:.3}"), format!("after {}", steps(step))));
        best
    } else {
        None
    };
    if let (Some(last), Some((step, _))) = (summary.val_loss, loss)
        && last.step != step
    {
        figures.push(("Last validation", format!("{:.3}", last.loss), format!("after {}", steps(last.step))));
    }
    if let Some((_, loss)) = loss {
        if let (Some(bits), Some(bytes)) = (run.bits_per_byte(loss), run.bytes_per_token()) {
            let note = if (bytes - 1.0).abs() < 1e-9 {
                "of the validation text".to_owned()
            } else {
                format!("of the validation text, {bytes:.3} bytes a {}", summary.token.unwrap_or("token"))
            };
            figures.push(("Bits per byte", format!("{bits:.3}"), note));
        }
        let token = format!("per {}", summary.token.unwrap_or("token"));
        figures.push(("Perplexity", format!("{:.2}", libm::exp(loss)), token));
    }
    if let Some(point) = smooth(&run.training()).last() {
        figures.push(("Training loss", format!("{:.3}", point.value), "trend at the last step".to_owned()));
    }
    let max = format!("of {}", count(summary.max_steps as f64));
    figures.push(("Steps", count(summary.steps as f64), max));
    let per_step = format!("{} a step", count(run.tokens_per_step()));
    figures.push(("Tokens learned", count(summary.tokens), per_step));
    if let Some(speed) = summary.tokens_per_second {
        figures.push(("Tokens a second", count(speed), "in training steps".to_owned()));
    }
    let in_all = summary.clock.map(|seconds| format!("; {} in all", clock(seconds))).unwrap_or_default();
    figures.push(("Time", clock(summary.seconds), format!("in training steps{in_all}")));
    let trained = summary.trained_parameters.filter(|trained| (trained - summary.parameters).abs() >= 1.0);
    let trained = trained.map(|trained| format!("{} values are trained", count(trained)));
    figures.push(("Parameters", count(summary.parameters), trained.unwrap_or_default()));
    if let Some(from) = summary.from {
        figures.push(("Fine-tuned from", from, String::new()));
    }
    figures
}

fn losses(note: &str) -> String {
    format!(
        r#"<section class="losses">
<div class="bar"><h2>Loss</h2>
<fieldset id="axis"><legend>over</legend>
<label><input type="radio" name="axis" value="step" checked>steps</label>
<label><input type="radio" name="axis" value="tokens">tokens</label>
<label><input type="radio" name="axis" value="seconds">time</label>
</fieldset>
<button type="button" id="whole" aria-pressed="false">Whole range</button></div>
<div id="loss" class="chart" role="img" aria-label="Curves of the loss"></div>
<p class="note">{note} <span class="screen">Drag to zoom in, double-click to zoom out.</span></p>
<noscript><p class="note">The curves are drawn with JavaScript, which is switched off here.</p></noscript>
</section>
"#
    )
}

fn panes(runs: &[RunView]) -> String {
    let clips = || runs.iter().map(|run| run.config.options.grad_clip);
    let clip =
        clips().next().filter(|&clip| clip > 0.0 && clips().all(|other| other.to_bits() == clip.to_bits()));
    let clip = clip.map(|clip| format!("clipped at {}", significant(clip, 6))).unwrap_or_default();
    let pane = |id: &str, title: &str, note: &str| {
        format!(
            "<div><h2>{title} <small>{note}</small></h2><div id=\"{id}\" class=\"chart\" role=\"img\" aria-label=\"Curve: {title}\"></div></div>\n"
        )
    };
    let panes = [
        pane("rate", "Learning rate", ""),
        pane("norm", "Gradient norm", &clip),
        pane("speed", "Tokens a second", ""),
    ]
    .concat();
    format!("<section class=\"panes\">\n{panes}</section>\n")
}

/// The sample of the model that was kept, or else the newest; the others below it, newest first.
fn samples(run: &RunView) -> String {
    let of_kept =
        run.kept.as_ref().and_then(|kept| run.samples.iter().find(|sample| sample.step == kept.step));
    let Some(large) = of_kept.or(run.samples.last()) else { return String::new() };
    let step = count(large.step as f64);
    let which = match &run.kept {
        Some(kept) if kept.step == large.step => format!("{}, the model of step {step}", escape(&kept.file)),
        Some(kept) => format!("the model of step {step}, which is not the one in {}", escape(&kept.file)),
        None => format!("the model of step {step}"),
    };
    let given = if large.prompt.is_empty() {
        "it was given nothing"
    } else if large.prompt.trim().is_empty() {
        "it was given an empty line"
    } else {
        "it was given the words in colour"
    };
    let others: Vec<_> = run.samples.iter().rev().filter(|sample| sample.step != large.step).collect();
    let shown = joined(spread(others.len(), MAX_SAMPLES).map(|index| {
        format!("<h3>Step {}</h3>\n{}\n", count(others[index].step as f64), quote(others[index]))
    }));
    let others = match others.len() {
        0 => String::new(),
        n if n <= MAX_SAMPLES => {
            format!("<details><summary>After other steps, the last first</summary>\n{shown}</details>\n")
        }
        n => format!(
            "<details><summary>{MAX_SAMPLES} of {n} others, the last first</summary>\n{shown}</details>\n"
        ),
    };
    format!(
        "<section>\n<h2>What it writes</h2>\n<p class=\"note\">By {which}; {given}.</p>\n{}\n{others}</section>\n",
        quote(large)
    )
}

/// A sample: the prompt in colour, and what was written, without the word that its end has cut.
fn quote(Sample { prompt, text, .. }: &Sample) -> String {
    let prompt = prompt.trim_start_matches('\n');
    let text = whole_words(text);
    if prompt.is_empty() {
        return format!("<blockquote>{} …</blockquote>", escape(text.trim_start()));
    }
    format!("<blockquote><b>{}</b>{} …</blockquote>", escape(prompt), escape(text))
}

/// Up to `max` of `len` indices, evenly spread.
fn spread(len: usize, max: usize) -> impl Iterator<Item = usize> {
    let shown = len.min(max);
    (0..shown).map(move |index| index * len / shown.max(1))
}

fn options(settings: &[Setting]) -> String {
    let groups = settings.chunk_by(|a, b| a.group == b.group).map(|group| {
        let rows = joined(group.iter().map(|setting| {
            let class = if setting.is_default { " class=\"default\"" } else { "" };
            format!(
                "<tr{class}><th scope=\"row\">{}</th><td>{}</td></tr>\n",
                setting.name,
                escape(&setting.shown)
            )
        }));
        format!("<div><h3>{}</h3><table>\n{rows}</table></div>\n", group[0].group)
    });
    format!(
        "<section>\n<h2>Options</h2>\n<p class=\"note\">Every option in force; those that have their default are \
         dimmed.</p>\n<div class=\"options\">\n{}</div>\n</section>\n",
        joined(groups)
    )
}

/// A row for each run.
fn compared(runs: &[RunView]) -> String {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let rows = joined(runs.iter().enumerate().map(|(index, run)| {
        let summary = run.summary();
        let kept = summary.kept.as_ref().and_then(|kept| Some((kept.step, f64::from(kept.val_loss?))));
        let best = kept.or(summary.best.map(|best| (best.step, best.loss)));
        let cells = [
            optional(best.map(|(step, _)| {
                format!("{}{}", count(step as f64), if kept.is_some() { "" } else { " (lowest)" })
            })),
            optional(best.map(|(_, loss)| format!("{loss:.3}"))),
            optional(best.and_then(|(_, loss)| Some(format!("{:.3}", run.bits_per_byte(loss)?)))),
            count(summary.steps as f64),
            count(summary.tokens),
            clock(summary.seconds),
            count(summary.parameters),
        ];
        let cells = joined(cells.iter().map(|cell| format!("<td>{cell}</td>")));
        let name = escape(&run.name);
        format!("<tr><th scope=\"row\"><i class=\"run\" data-run=\"{index}\"></i>{name}</th>{cells}</tr>\n")
    }));
    let heads = [
        "Run",
        "Kept step",
        "Validation loss",
        "Bits a byte",
        "Steps",
        "Tokens",
        "Time in steps",
        "Parameters",
    ];
    let heads = joined(heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")));
    format!(
        "<section>\n<h2>Runs</h2>\n<div class=\"wide\"><table class=\"compared\">\n<tr>{heads}</tr>\n{rows}</table></div>\n</section>\n"
    )
}

/// The options that are not the same in all runs.
fn differing(runs: &[RunView]) -> String {
    let all: Vec<_> = runs.iter().map(RunView::settings).collect();
    let Some(first) = all.first() else { return String::new() };
    // Every run has all of them, in the same order.
    let rows = joined(
        (0..first.len())
            .filter(|&index| all.iter().any(|settings| settings[index].value != first[index].value))
            .map(|index| {
                let cells = all.iter().map(|settings| format!("<td>{}</td>", escape(&settings[index].shown)));
                format!("<tr><th scope=\"row\">{}</th>{}</tr>\n", first[index].name, joined(cells))
            }),
    );
    if rows.is_empty() {
        return String::new();
    }
    let heads = joined(runs.iter().map(|run| format!("<th scope=\"col\">{}</th>", escape(&run.name))));
    format!(
        "<section>\n<h2>Options that differ</h2>\n<div class=\"wide\"><table class=\"compared\">\n<tr><th></th>{heads}</tr>\n{rows}</table></div>\n</section>\n"
    )
}

/// The curves as JSON, for the script of the page.
fn data(runs: &[RunView], unit: Unit) -> String {
    let mut ranges: Vec<[f64; 2]> = Vec::new();
    let runs: Vec<String> = runs
        .iter()
        .map(|run| {
            let training = run.training();
            let trend = smooth(&training);
            let whole = [&trend[trend.len().min(1)..], &run.validations].concat();
            let range = readable(&training, &run.validations).or_else(|| readable(&[], &whole));
            ranges.extend(range.map(|range| range.map(|loss| loss * unit.scale(run))));
            // Where there are many, they are noise to the eye as the losses of steps are.
            let of_validations =
                if run.validations.len() > MAX_PLAIN { smooth(&run.validations) } else { Vec::new() };
            let curve = |points: &[Point], scale| to_json(&reduce(points, MAX_POINTS), scale);
            let values = |of: fn(&super::read::Line) -> Option<f64>| {
                run.steps.iter().filter_map(|line| Some(line.point(of(line)?))).collect::<Vec<_>>()
            };
            // On a scale of powers of ten.
            let norms: Vec<_> = values(|line| line.grad_norm.filter(|&norm| norm > 0.0).map(libm::log10));
            let of_norms = if norms.len() > MAX_PLAIN { smooth(&norms) } else { Vec::new() };
            let steps: Vec<_> = run.steps.iter().map(|line| line.point(0.0)).collect();
            let kept = run.kept.as_ref().map(|kept| (kept.step, kept.file.clone()));
            let kept = kept.map_or("null".to_owned(), |(step, file)| {
                let at = run.steps.partition_point(|line| line.step < step);
                let seconds = run.steps.get(at).or(run.steps.last()).map_or(0.0, |line| line.seconds);
                let label = json_string(&format!("{file}: step {}", count(step as f64)));
                format!(r#"{{"step":{step},"seconds":{},"label":{label}}}"#, significant(seconds, 6))
            });
            format!(
                r#"{{"name":{},"tokens":{},"clip":{},"kept":{kept},"loss":{},"trend":{},"val":{},"valTrend":{},"rate":{},"norm":{},"normTrend":{},"speed":{}}}"#,
                json_string(&run.name),
                run.tokens_per_step(),
                significant(run.config.options.grad_clip, 6),
                curve(&training, unit.scale(run)),
                curve(&trend, unit.scale(run)),
                curve(&run.validations, unit.scale(run)),
                curve(&of_validations, unit.scale(run)),
                curve(&values(|line| line.learning_rate), 1.0),
                curve(&norms, 1.0),
                curve(&of_norms, 1.0),
                curve(&speed(&steps, run.tokens_per_step()), 1.0),
            )
        })
        .collect();
    let low = ranges.iter().map(|range| range[0]).min_by(f64::total_cmp);
    let high = ranges.iter().map(|range| range[1]).max_by(f64::total_cmp);
    let range =
        low.zip(high).map(|(low, high)| format!("[{},{}]", significant(low, 6), significant(high, 6)));
    let range = range.unwrap_or_else(|| "null".to_owned());
    format!(r#"{{"range":{range},"runs":[{}]}}"#, runs.join(","))
}
