// E2B's SDK for JavaScript, as it is published: watched directories, files of any size and form, what a sandbox uses,
// and pauses. Run by test_e2b_javascript.py, with a server in the environment.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, test } from 'node:test'
import { Sandbox } from '@e2b/code-interpreter'

const PIECE = Uint8Array.from({ length: 251 * 261 }, (_, at) => at % 251)
const PIECES = 640
const WAIT_MS = 20_000

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 170_000 })
})

after(async () => {
  await sandbox.kill()
})

/** Collects what a watch tells; `until` waits for a change that is the last of those expected. */
function listener() {
  const seen = []
  let wake = () => {}
  return {
    seen,
    hear: ({ type, name }) => {
      seen.push(`${type} ${name}`)
      wake()
    },
    async until(last) {
      const signal = AbortSignal.timeout(WAIT_MS)
      while (!seen.includes(last)) {
        await new Promise((resolve, reject) => {
          wake = resolve
          signal.onabort = () => reject(new Error(`only ${seen} was told`))
        })
      }
    },
  }
}

function stream(pieces) {
  return new ReadableStream({
    pull(controller) {
      if (pieces-- === 0) controller.close()
      else controller.enqueue(PIECE)
    },
  })
}

test('a watch tells changes as they happen until it is stopped', async () => {
  await sandbox.files.makeDir('watched')
  const ends = []
  const heard = listener()
  const watch = await sandbox.files.watchDir('watched', heard.hear, { onExit: (error) => ends.push(error) })
  await sandbox.files.write('watched/a', 'x')
  await heard.until('write a')
  await sandbox.files.rename('watched/a', 'watched/b')
  await heard.until('write b')
  await sandbox.commands.run('chmod 600 watched/b')
  await heard.until('chmod b')
  await sandbox.files.remove('watched/b')
  await heard.until('remove b')
  assert.deepEqual(heard.seen, [
    ...['create a', 'write a', 'rename a', 'create b', 'write b', 'chmod b', 'remove b'],
  ])
  assert.deepEqual(ends, [])
  await watch.stop()
  await sandbox.files.write('watched/c', 'x')
  assert.equal(heard.seen.length, 7)
})

test('a watch of a tree tells paths and what is there', async () => {
  await sandbox.files.makeDir('tree/there')
  const entries = new Map()
  const heard = listener()
  const hear = (event) => {
    entries.set(`${event.type} ${event.name}`, event.entry)
    heard.hear(event)
  }
  const watch = await sandbox.files.watchDir('tree', hear, { recursive: true, includeEntry: true })
  await sandbox.files.write('tree/there/a', 'xyz')
  await heard.until('write there/a')
  await sandbox.files.write('tree/new/deep/b', 'x')
  await heard.until('write new/deep/b')
  await sandbox.files.rename('tree/new', 'tree/moved')
  await heard.until('write moved/deep/b')
  for (const name of ['there/a', 'moved', 'moved/deep/b']) {
    assert.deepEqual(entries.get(`create ${name}`), await sandbox.files.getInfo(`tree/${name}`))
  }
  assert.equal(entries.get('rename new'), undefined)
  await watch.stop()
})

test('metadata of a file is refused and not dropped', async () => {
  for (const opts of [{}, { useOctetStream: true }]) {
    const written = sandbox.files.write('described', 'x', { ...opts, metadata: { author: 'me' } })
    await assert.rejects(written, /metadata of files is not supported/)
  }
  assert.equal(await sandbox.files.exists('described'), false)
})

test('a watch ends with its time, its directory or its sandbox', async () => {
  const own = await Sandbox.create({ timeoutMs: 60_000 })
  const ended = async (name, opts) => {
    await own.files.makeDir(name)
    let end
    const coming = new Promise((resolve) => (end = resolve))
    await own.files.watchDir(name, () => {}, { ...opts, onExit: (error) => end(error) })
    return () => coming
  }
  const timed = await ended('timed', { timeoutMs: 1000 })
  const removed = await ended('removed', {})
  const killed = await ended('killed', { timeoutMs: 0 })
  await own.files.remove('removed')
  assert.equal((await removed()).name, 'NotFoundError')
  assert.equal((await timed()).name, 'TimeoutError')
  await own.kill()
  assert.match(String(await killed()), /not found|killed/)
})

test('what cannot be watched is refused', async () => {
  await assert.rejects(sandbox.files.watchDir('nothing', () => {}), { name: 'FileNotFoundError' })
})

test('a file of any size is written and read as a stream', async () => {
  const { path } = await sandbox.files.write('new/stream', stream(PIECES))
  assert.equal(path, '/home/user/new/stream')
  const isWhole = `open('new/stream', 'rb').read() == bytes(range(251)) * ${(PIECES * PIECE.length) / 251}`
  assert.equal((await sandbox.runCode(isWhole)).text, 'True')
  const sum = createHash('sha256')
  for await (const piece of await sandbox.files.read('new/stream', { format: 'stream' })) sum.update(piece)
  const { stdout } = await sandbox.commands.run('sha256sum new/stream')
  assert.equal(stdout.split(' ')[0], sum.digest('hex'))
})

test('a file of any size is written by a form', async () => {
  const data = new Blob(Array(PIECES).fill(PIECE))
  await sandbox.files.write('form', data, { useOctetStream: false })
  await sandbox.files.writeFiles([{ path: 'forms/a', data }, { path: 'forms/b', data: 'b' }], { useOctetStream: false })
  const { stdout } = await sandbox.commands.run('cmp form forms/a; stat -c %s form forms/b')
  assert.equal(stdout, `${PIECES * PIECE.length}\n1\n`)
})

test('a file is packed on its way in and out when the client asks', async () => {
  const text = 'very much the same\n'.repeat(500_000)
  await sandbox.files.write('packed', text, { gzip: true })
  await sandbox.files.write('packed stream', new Blob([text]).stream(), { gzip: true })
  const { stdout } = await sandbox.commands.run("cmp packed 'packed stream'; stat -c %s packed")
  assert.equal(stdout, `${text.length}\n`)
  assert.equal(await sandbox.files.read('packed', { gzip: true }), text)
  const answer = await sandbox.files.read('packed', { format: 'bytes', gzip: true })
  assert.equal(Buffer.from(answer).toString(), text)
})

test('several files are written together, in a form or as streams', async () => {
  const entries = [
    { path: 'several/a', data: 'a' },
    { path: 'several/b', data: new Blob(['b']) },
  ]
  for (const opts of [{}, { useOctetStream: true }, { gzip: true }]) {
    const written = await sandbox.files.writeFiles(entries, opts)
    assert.deepEqual(written.map((each) => each.name), ['a', 'b'])
    assert.equal((await sandbox.files.read('several/a')) + (await sandbox.files.read('several/b')), 'ab')
    await sandbox.files.remove('several')
  }
})

test('a file that the disk cannot take leaves what was there', async () => {
  await sandbox.files.write('kept', 'before')
  for (const path of ['kept/below', '/etc/x']) {
    await assert.rejects(sandbox.files.write(path, stream(2)))
  }
  assert.equal(await sandbox.files.read('kept'), 'before')
})

test('a signed address takes a file without a key', async () => {
  const form = new FormData()
  form.append('file', new Blob(['sent']), 'sent.txt')
  const url = await sandbox.uploadUrl('sent.txt', { useSignatureExpiration: 60_000 })
  assert.equal((await fetch(url, { method: 'POST', body: form })).status, 200)
  assert.equal(await sandbox.files.read('sent.txt'), 'sent')
})

test('metrics tell what a sandbox uses now', async () => {
  const [now] = await sandbox.getMetrics()
  const info = await sandbox.getInfo()
  assert.deepEqual([now.cpuCount, now.memTotal], [info.cpuCount, info.memoryMB * 2 ** 20])
  assert.ok(now.memUsed > 0 && now.memUsed < now.memTotal && now.diskTotal > 0)
  assert.ok(Math.abs(now.timestamp - new Date()) < 30_000)
  assert.deepEqual(await sandbox.getMetrics({ end: new Date(Date.now() - 60_000) }), [])
  const busy = await sandbox.commands.run('while :; do :; done', { background: true })
  const deadline = Date.now() + WAIT_MS
  while ((await sandbox.getMetrics())[0].cpuUsedPct < 10) assert.ok(Date.now() < deadline)
  await busy.kill()
})

test('a paused sandbox keeps its memory, its files, its commands and its watches', async () => {
  const own = await Sandbox.create({ timeoutMs: 60_000, metadata: { kind: 'paused' } })
  await own.runCode('x = 41')
  await own.files.write('kept', 'text')
  const heard = listener()
  const watch = await own.files.watchDir('.', heard.hear)
  const running = await own.commands.run('cat; echo done', { background: true, stdin: true })
  assert.deepEqual([await own.pause(), await own.pause(), await own.isRunning()], [true, false, false])
  assert.equal((await own.getInfo()).state, 'paused')
  const listed = async (state) =>
    (await Sandbox.list({ query: { metadata: { kind: 'paused' }, state: [state] } }).nextItems()).length
  assert.deepEqual([await listed('paused'), await listed('running')], [1, 0])
  assert.equal((await own.getMetrics())[0].cpuUsedPct, 0)
  for (const use of [() => own.runCode('x'), () => own.commands.run('ls'), () => own.files.read('kept')]) {
    await assert.rejects(use(), /not found|not running/)
  }
  const same = await Sandbox.connect(own.sandboxId, { timeoutMs: 60_000 })
  assert.equal(await own.isRunning(), true)
  assert.equal((await same.runCode('x + 1')).text, '42')
  assert.equal(await own.files.read('kept'), 'text')
  await same.commands.sendStdin(running.pid, 'typed\n')
  await same.commands.closeStdin(running.pid)
  assert.equal((await running.wait()).stdout, 'typed\ndone\n')
  await same.files.write('new', 'x')
  await heard.until('write new')
  await watch.stop()
  await own.kill()
  await assert.rejects(Sandbox.connect(own.sandboxId), { name: 'SandboxNotFoundError' })
})

test('a pause of the files alone is refused', async () => {
  await assert.rejects(sandbox.pause({ keepMemory: false }), /not supported here/)
  assert.equal((await sandbox.runCode('1')).text, '1')
})
