import { expect, it } from 'vitest'
import { Wrapping, wrap } from '../src/cli/wrap.js'

it.each([
  ['the whale and the sea', 12, '', 'the whale\nand the sea'],
  ['the whale and the sea', 12, '| ', '| the whale\n| and the\n| sea'],
  ['the whale\n\n  and the sea', 12, '| ', '| the whale\n| \n|   and the\n| sea'],
  ['exactly ten', 11, '', 'exactly ten'],
  ['exactly eleven', 7, '', 'exactly\neleven'],
  ['unbreakable', 5, '', 'unbre\nakabl\ne'],
  ['a   b', 3, '', 'a\nb'],
  ['', 10, '| ', '| '],
  // A margin's colours take no columns; one that is wider than the line still leaves a character a line.
  ['ab cd', 4, '\x1b[2m|\x1b[22m ', '\x1b[2m|\x1b[22m ab\n\x1b[2m|\x1b[22m cd'],
  ['ab', 1, '| ', '| a\n| b'],
])('%j in %d columns after %j', (text, columns, margin, expected) => {
  expect(wrap(text, columns, margin)).toBe(expected)
  if (margin !== '') return
  const wrapping = new Wrapping(columns)
  const pieces = [...text].map(piece => wrapping.push(piece))
  expect(pieces.join('') + wrapping.end()).toBe(expected)
})
