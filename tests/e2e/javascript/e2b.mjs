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

test('code that its client gives up is interrupted', async () => {
  await assert.rejects(sandbox.runCode('while True: pass', { timeoutMs: 1000 }), { name: 'TimeoutError' })
  assert.equal((await sandbox.runCode('6 * 7')).text, '42')
})

test('commands tell their output and their exit code', async () => {
  const done = await sandbox.commands.run('echo "out $FROM"; echo err >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['out create\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 3'), { exitCode: 3 })
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
