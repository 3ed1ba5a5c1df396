// A program for E2B's SDK, run on this machine.
//
// npm install @e2b/code-interpreter
// jupyter sandbox serve                    # in another terminal; prints the token
// export E2B_API_URL=http://127.0.0.1:3874/e2b E2B_SANDBOX_URL=http://127.0.0.1:3874/e2b/sbx E2B_API_KEY=TOKEN
// node examples/e2b_sandbox.mjs

import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 120_000, metadata: { example: 'e2b' } })
try {
  await sandbox.files.write('prices.csv', 'day,price\n1,10\n2,12\n3,11\n')
  await sandbox.runCode("import csv; rows = list(csv.DictReader(open('prices.csv')))")
  const execution = await sandbox.runCode(
    "prices = [int(row['price']) for row in rows]; print(len(prices), 'days'); sum(prices) / len(prices)",
    { onStdout: (message) => console.log('said:', message.line.trim()) },
  )
  console.log('mean:', execution.text)
  await sandbox.runCode("open('mean.txt', 'w').write(str(sum(prices) / len(prices)))")
  console.log('file:', await sandbox.files.read('mean.txt'))
  console.log('lines:', (await sandbox.commands.run('wc -l < prices.csv')).stdout.trim())
  console.log('wrong:', (await sandbox.runCode('prices[99]')).error.name)
} finally {
  await sandbox.kill()
}
