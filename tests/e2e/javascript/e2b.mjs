// E2B's SDK for JavaScript, as it is published. Run by test_e2b_javascript.py, with a server in the environment.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Sandbox } from '@e2b/code-interpreter'

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 170_000, envs: { FROM: 'create' }, metadata: { kind: 'javascript' } })
})

after(async () => {
  await sandbox.kill()
})

test('code keeps its state and tells what it prints and returns', async () => {
  const heard = []
  const ran = await sandbox.runCode("x = 41\nprint('hello')\nx + 1", { onStdout: (message) => heard.push(message.line) })
  assert.deepEqual([ran.text, ran.logs.stdout.join(''), ran.error], ['42', 'hello\n', undefined])
  assert.equal(heard.join(''), 'hello\n')
  assert.equal((await sandbox.runCode('x')).text, '41')
})

test('an exception is an error', async () => {
  const { error } = await sandbox.runCode('1 / 0')
  assert.deepEqual([error.name, error.value], ['ZeroDivisionError', 'division by zero'])
})

test('text in every script arrives in one piece', async () => {
  const text = 'a\u2028b\u0085é😀'.repeat(2000)
  const { logs } = await sandbox.runCode(`print(${JSON.stringify(text)}, end='')`)
  assert.equal(logs.stdout.join(''), text)
})

test('contexts are kernels of their own', async () => {
  const context = await sandbox.createCodeContext()
  await sandbox.runCode('mine = 1', { context })
  assert.equal((await sandbox.runCode("'mine' in globals()")).text, 'False')
  assert.equal((await sandbox.runCode('mine', { context })).text, '1')
  await sandbox.removeCodeContext(context)
})

test('contexts are listed, restarted and start where they are told to', async () => {
  await sandbox.files.makeDir('elsewhere')
  const context = await sandbox.createCodeContext({ cwd: '/home/user/elsewhere' })
  assert.deepEqual((await sandbox.listCodeContexts()).at(-1), context)
  assert.equal((await sandbox.runCode('import os; lost = os.getcwd(); lost', { context })).text, '/home/user/elsewhere')
  await sandbox.restartCodeContext(context)
  assert.equal((await sandbox.runCode('lost', { context })).error.name, 'NameError')
  await sandbox.removeCodeContext(context.id)
  assert.ok(!(await sandbox.listCodeContexts()).some((each) => each.id === context.id))
})

test('variables of one execution are gone after it', async () => {
  const code = "import os; [os.environ.get(name) for name in ('MINE', 'FROM')]"
  assert.equal((await sandbox.runCode(code, { envs: { MINE: 'once', FROM: 'run' } })).text, "['once', 'run']")
  assert.equal((await sandbox.runCode(code)).text, "[None, 'create']")
})

test('code that its client gives up is interrupted', async () => {
  await assert.rejects(sandbox.runCode('while True: pass', { timeoutMs: 1000 }), { name: 'TimeoutError' })
  assert.equal((await sandbox.runCode('6 * 7')).text, '42')
})

test('commands tell their output and their exit code', async () => {
  const done = await sandbox.commands.run('echo "out $FROM"; echo err >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['out create\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 3'), { exitCode: 3 })
})

test('a command runs where and with what it is told, and no longer', async () => {
  await sandbox.files.makeDir('place')
  const done = await sandbox.commands.run('pwd; echo $MINE', { cwd: 'place', envs: { MINE: 'yes' } })
  assert.equal(done.stdout, '/home/user/place\nyes\n')
  const running = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 1000 })
  await assert.rejects(running.wait(), { name: 'TimeoutError' })
  const deadline = Date.now() + 10_000 // the SDK's clock is first
  while ((await sandbox.commands.list()).some((each) => each.pid === running.pid)) assert.ok(Date.now() < deadline)
})

test('a command goes on without its client and is connected to', async () => {
  const first = await sandbox.commands.run('echo early; read line; echo "got $line"', { background: true, stdin: true })
  await first.disconnect()
  const heard = []
  const again = await sandbox.commands.connect(first.pid, { onStdout: (text) => heard.push(text) })
  await sandbox.commands.sendStdin(first.pid, 'typed\n')
  const { stdout, exitCode } = await again.wait()
  assert.deepEqual([stdout, exitCode, heard.join('')], ['early\ngot typed\n', 0, stdout])
})

test('a command in the background reads what is sent', async () => {
  const running = await sandbox.commands.run('read line; echo "got $line"', { background: true, stdin: true })
  assert.ok((await sandbox.commands.list()).some((each) => each.pid === running.pid))
  await sandbox.commands.sendStdin(running.pid, 'typed\n')
  assert.equal((await running.wait()).stdout, 'got typed\n')
})

test('a command in the background is killed', async () => {
  const running = await sandbox.commands.run('sleep 1000', { background: true })
  assert.equal(await running.kill(), true)
  await assert.rejects(running.wait())
})

test('a terminal is one', async () => {
  const seen = []
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => seen.push(Buffer.from(data)) })
  await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 30 })
  await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size; exit\n'))
  await terminal.wait()
  assert.match(Buffer.concat(seen).toString(), /30 100/)
})

test('a terminal is connected to and killed', async () => {
  const first = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => {}, envs: { MINE: 'yes' }, cwd: '/home/user' })
  await first.disconnect()
  let text = ''
  let wake
  const said = new Promise((resolve) => (wake = resolve))
  const onData = (data) => /yes at .home.user/.test((text += Buffer.from(data))) && wake()
  const again = await sandbox.pty.connect(first.pid, { onData })
  await sandbox.pty.sendInput(first.pid, Buffer.from('echo "$MINE at $PWD"\n'))
  await said
  assert.deepEqual([await sandbox.pty.kill(first.pid), await sandbox.pty.kill(first.pid)], [true, false])
  await assert.rejects(again.wait())
})

test('directories are listed to a depth, made once and looked at', async () => {
  assert.deepEqual([await sandbox.files.makeDir('deep/er'), await sandbox.files.makeDir('deep/er')], [true, false])
  await sandbox.files.write('deep/er/file', 'abc')
  const paths = async (depth) => (await sandbox.files.list('deep', { depth })).map((each) => each.path)
  assert.deepEqual(await paths(1), ['/home/user/deep/er'])
  assert.deepEqual(await paths(2), ['/home/user/deep/er', '/home/user/deep/er/file'])
  const { type, size, permissions, owner } = await sandbox.files.getInfo('deep/er/file')
  assert.deepEqual([type, size, permissions.slice(0, 3), owner], ['file', 3, '-rw', 'user'])
  assert.equal((await sandbox.files.getInfo('deep')).type, 'dir')
})

test('files are written, read, listed, moved and removed', async () => {
  const written = await sandbox.files.write('a/b.txt', 'text')
  assert.equal(written.path, '/home/user/a/b.txt')
  assert.equal(await sandbox.files.read('a/b.txt'), 'text')
  await sandbox.files.write('bytes', new Uint8Array([0, 255]).buffer)
  assert.deepEqual([...(await sandbox.files.read('bytes', { format: 'bytes' }))], [0, 255])
  assert.deepEqual((await sandbox.files.list('a')).map((each) => each.path), ['/home/user/a/b.txt'])
  await sandbox.files.rename('a/b.txt', 'a/c.txt')
  await sandbox.files.remove('a')
  assert.equal(await sandbox.files.exists('a/c.txt'), false)
})

test('signed addresses are read without a key', async () => {
  await sandbox.files.write('s.txt', 'signed')
  const answer = await fetch(await sandbox.downloadUrl('s.txt', { useSignatureExpiration: 60_000 }))
  assert.equal(await answer.text(), 'signed')
})

test('sandboxes are found by what they were given', async () => {
  const found = await Sandbox.list({ query: { metadata: { kind: 'javascript' } } }).nextItems()
  assert.deepEqual(found.map((each) => each.sandboxId), [sandbox.sandboxId])
})

test('sandboxes are listed by their time, by what is asked, on full pages', async () => {
  const opts = { timeoutMs: 60_000, metadata: { kind: 'listed' } }
  const made = [await Sandbox.create(opts), await Sandbox.create(opts)]
  const ids = made.map((each) => each.sandboxId)
  const listed = async ({ order, ...query }) => {
    const pages = Sandbox.list({ query: { metadata: opts.metadata, ...query }, order, limit: 1 })
    const found = []
    while (pages.hasNext) {
      const page = await pages.nextItems()
      assert.ok(page.length === 1 || !pages.hasNext)
      found.push(...page.map((each) => each.sandboxId))
    }
    return found
  }
  assert.deepEqual(await listed({}), ids.toReversed())
  assert.deepEqual(await listed({ order: 'asc', state: ['running'], template: 'base' }), ids)
  assert.deepEqual(await listed({ startedAfter: (await made[1].getInfo()).startedAt }), [ids[1]])
  assert.deepEqual(await listed({ state: ['paused'] }), [])
  for (const each of made) await each.kill()
})

test('a sandbox lives as long as it is told', async () => {
  const before = (await sandbox.getInfo()).endAt
  await sandbox.setTimeout(300_000)
  assert.ok((await sandbox.getInfo()).endAt - before > 100_000)
  const { sandboxId, metadata, state } = await sandbox.getInfo()
  assert.deepEqual([sandboxId, metadata, state], [sandbox.sandboxId, { kind: 'javascript' }, 'running'])
})

test('a second connection shares the state', async () => {
  await sandbox.runCode('y = 1')
  const same = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await same.runCode('y')).text, '1')
})

test('a network is closed when that is asked, told and changed', async () => {
  const closed = await Sandbox.create({ timeoutMs: 60_000, allowInternetAccess: false })
  const told = async () => (({ allowInternetAccess, network }) => [allowInternetAccess, network?.denyOut])(await closed.getInfo())
  assert.deepEqual(await told(), [false, ['0.0.0.0/0', '::/0']])
  await closed.updateNetwork({ denyOut: ['10.0.0.0/8'] })
  assert.deepEqual((await told())[1], ['10.0.0.0/8'])
  await assert.rejects(closed.updateNetwork({ allowOut: ['example.com'] }), /not supported here/)
  await closed.updateNetwork({})
  assert.equal((await told())[1], undefined)
  await closed.kill()
})

test('a sandbox that is gone is told as the SDK expects', async () => {
  const gone = await Sandbox.create({ timeoutMs: 60_000 })
  assert.equal(await gone.isRunning(), true)
  assert.equal(await gone.kill(), true)
  assert.equal(await gone.isRunning(), false)
  assert.equal(await gone.kill(), false)
  await assert.rejects(gone.runCode('1'), /not found/)
  await assert.rejects(gone.commands.run('ls'), { name: 'SandboxNotFoundError' })
})

test('a wrong key opens nothing', async () => {
  await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(64)}` }), { name: 'AuthenticationError' })
})
