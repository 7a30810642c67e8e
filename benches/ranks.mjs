// Two ranks of rwkv-mpi, of one thread each, beside one rank of one thread: seconds of a step, in pairs.
//
//     cargo build --release --manifest-path mpi/Cargo.toml
//     node benches/ranks.mjs [--rate MBIT_A_SECOND [--delay MILLISECONDS]] [--rounds 3] [--steps 10] -- OPTIONS OF rwkv-mpi train
//
// Ranks talk over shared memory; with --rate over a link between two network namespaces that is held to it, with --delay
// one that takes so long each way. Links take Linux, root, ip and tc; those with a delay python3, which is that link.
// --program names another rwkv-mpi. Steps are timed by the run's log, without the first two; the efficiency is how fast two
// ranks are to twice one. Nothing else should run.

import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const built = join(import.meta.dirname, '../mpi/target/release/rwkv-mpi')
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rate: { type: 'string' },
    delay: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '10' },
    program: { type: 'string', default: built },
  },
})
const place = mkdtempSync(join(tmpdir(), 'ranks-'))
const common = ['--threads', '1', '--eval-interval', '0', '--eval-tokens', '512', '--max-steps', values.steps]
const launch = ['--allow-run-as-root', '--bind-to', 'none', '-n', '2']
const program = [values.program, 'train', ...common, ...positionals]

let stopLink = () => {}
try {
  const efficiencies = []
  for (let round = 0; round < Number(values.rounds); round += 1) {
    const one = secondsOf(program)
    stopLink = values.rate === undefined ? () => {} : await startLink()
    const before = sentBytes()
    const two = secondsOf([...overLink(), ...program])
    const megabytes = (sentBytes() - before) / 1e6
    stopLink()
    efficiencies.push(one / 2 / two)
    const link = values.rate === undefined ? '' : `, ${megabytes.toFixed(1)} MB from rank 0 in all`
    console.log(`one rank ${one.toFixed(3)} s, two ${two.toFixed(3)} s: ${percent(one / 2 / two)}${link}`)
  }
  console.log(`median efficiency: ${percent(median(efficiencies))}`)
} finally {
  stopLink()
  rmSync(place, { recursive: true, force: true })
}

/** The median of a run's steps in seconds. */
function secondsOf([command, ...args]) {
  const out = join(place, 'run')
  rmSync(out, { recursive: true, force: true })
  const { status, stdout, stderr } = spawnSync(command, [...args, '--out', out], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: exit code ${status}\n${stdout}${stderr}`)
  const lines = readFileSync(join(out, 'log.jsonl'), 'utf8').trim().split('\n')
  const times = lines.map(line => JSON.parse(line)).filter(({ loss }) => loss !== undefined)
  const steps = times.slice(2).map(({ seconds }, at) => seconds - times[at + 1].seconds)
  return median(steps)
}

/** mpirun for two ranks, in the namespaces if there is a link. */
function overLink() {
  if (values.rate === undefined) return ['mpirun', ...launch]
  // What mpirun takes for ssh: its last arguments are the command for the other machine.
  const agent = join(place, 'agent')
  writeFileSync(
    agent,
    `#!/bin/bash
host=$1; shift
while [[ $1 == -* ]]; do shift; done
exec ip netns exec rank$((\${host##*.} - 1)) /bin/bash -c "$*"
`,
  )
  chmodSync(agent, 0o755)
  const network = '10.9.0.0/24'
  const parameters = { plm_rsh_agent: agent, btl: 'self,tcp', pml: 'ob1', btl_tcp_if_include: network, oob_tcp_if_include: network }
  const mca = Object.entries(parameters).flatMap(([name, value]) => ['--mca', name, value])
  return ['ip', 'netns', 'exec', 'rank0', 'mpirun', '--host', '10.9.0.1,10.9.0.2', ...mca, ...launch]
}

/** Joins two network namespaces; returns what takes them away. */
async function startLink() {
  const names = [0, 1].map(number => `rank${number}`)
  const remove = () => names.forEach(name => void spawnSync('ip', ['netns', 'del', name], { stdio: 'ignore' }))
  remove()
  if (values.delay !== undefined) {
    const script = join(import.meta.dirname, 'link.py')
    const link = spawn('python3', [script, values.rate, values.delay], { stdio: ['ignore', 'pipe', 'inherit'] })
    await new Promise((resolve, reject) => {
      link.stdout.once('data', resolve)
      link.once('exit', code => reject(new Error(`link.py: exit code ${code}`)))
    })
    return () => {
      link.kill()
      remove()
    }
  }
  ip('netns add rank0')
  ip('netns add rank1')
  ip('-n rank0 link add link0 type veth peer name link1 netns rank1')
  names.forEach((name, number) => {
    ip(`-n ${name} addr add 10.9.0.${number + 1}/24 dev link${number}`)
    ip(`-n ${name} link set link${number} up`)
    ip(`-n ${name} link set lo up`)
    ip(`netns exec ${name} tc qdisc add dev link${number} root tbf rate ${values.rate}mbit burst 256kb latency 100ms`)
  })
  return remove
}

/** Bytes that rank 0 has sent over the link. */
function sentBytes() {
  if (values.rate === undefined) return 0
  const [{ stats64 }] = JSON.parse(ip('-n rank0 -s -j link show link0'))
  return stats64.tx.bytes
}

function ip(args) {
  const { status, stdout, stderr, error } = spawnSync('ip', args.split(' '), { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${args}: ${error?.message ?? stderr}`)
  return stdout
}

function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
}

function percent(part) {
  return `${(100 * part).toFixed(1)} %`
}
