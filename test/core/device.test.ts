import { expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { BackendUnavailable, backendNames, openBackend, registerBackend } from '../../src/core/device.js';

test('the first backend that is installed serves, and one hears in a line what is not', async () => {
  await expect(openBackend()).rejects.toThrow(/no backend is available/);
  const missing = new BackendUnavailable('no driver is installed', { without: 'twice as long', mend: 'install one' });
  registerBackend('missing', () => Promise.reject(missing));
  registerBackend('plain', async () => new ReferenceBackend());
  registerBackend('broken', () => Promise.reject(new Error('no power')));
  expect(backendNames()).toEqual(['missing', 'plain', 'broken']);
  const heard: string[] = [];
  expect((await openBackend(undefined, (message) => heard.push(message))).name).toBe('reference');
  expect(heard).toEqual(['no driver is installed: all runs twice as long without backend "missing"; to mend: install one']);
});

test('a backend that is installed and does not work is an error', async () => {
  registerBackend('plain', () => Promise.reject(new Error('no power')));
  await expect(openBackend()).rejects.toThrow('no power');
  registerBackend('plain', async () => new ReferenceBackend());
});

test('a backend that is asked for by name is that one or an error', async () => {
  expect((await openBackend('plain')).name).toBe('reference');
  await expect(openBackend('broken')).rejects.toThrow('no power');
  await expect(openBackend('missing')).rejects.toThrow(/no driver is installed\n {2}to mend: install one/);
  await expect(openBackend('plane')).rejects.toThrow(/there is no backend "plane"[\s\S]*missing, plain, broken[\s\S]*use "plain"/);
});
