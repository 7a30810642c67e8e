/**
 * Train RWKV language models and run them, on the CPU of one machine.
 *
 * {@link Trainer} learns a text and writes a run's directory; {@link Model} loads it; a {@link Session} reads
 * and writes one text; a {@link State} is the model's memory of that text. {@link quantize} makes a model
 * smaller, {@link convert} brings it into the format of another program, {@link merge} adds a LoRA adapter to one, and
 * {@link chatFormats} are how models were taught to talk. Everything that takes long returns a promise or can be looped
 * over with `for await`, runs on other threads and obeys an `AbortSignal`. What goes wrong is an {@link RwkvError}.
 *
 * @packageDocumentation
 */

export {
  type ChatFormat,
  type ChatModel,
  type ChosenFormat,
  chatFormat,
  chatFormatFor,
  chatFormats,
  checkChatFormat,
  type ToolFormat,
} from './chat-formats.js'
export {
  type ChatMessage,
  type ChatText,
  splitThoughts,
  type ThoughtsAndAnswer,
  type WriteChatOptions,
  writeChat,
} from './chat-text.js'
export { convert, convertAdapter, convertState } from './convert.js'
export { type ErrorCode, RwkvError } from './errors.js'
export { Generation } from './generation.js'
export type { BytesInput, FileUrl, Input, Path, TextInput } from './inputs.js'
export { adapterInfo, merge } from './lora.js'
export { Model } from './model.js'
export type * from './options.js'
export { prepare } from './prepare.js'
export { quantize } from './quantize.js'
export { writeReport } from './report.js'
export { Session } from './session.js'
export { State } from './state.js'
export { Tokenizer } from './tokenizer.js'
export {
  type Best,
  type Kept,
  type Profile,
  type ProfilePart,
  type Saved,
  type Step,
  Trainer,
} from './trainer.js'
