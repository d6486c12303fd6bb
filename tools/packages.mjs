/** The packages of single platforms, npm/lowrank-NAME: src/backends/cpu/addon.ts finds them by `${process.platform}-${process.arch}`. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './native.mjs';

export const platforms = {
  'linux-x64': { os: 'linux', cpu: 'x64', libc: 'glibc', title: 'Linux on x64, glibc 2.28 or newer' },
  'linux-arm64': { os: 'linux', cpu: 'arm64', libc: 'glibc', title: 'Linux on Arm64, glibc 2.28 or newer' },
  'darwin-arm64': { os: 'darwin', cpu: 'arm64', title: 'macOS 13 or newer on Apple silicon' },
  'win32-x64': { os: 'win32', cpu: 'x64', title: 'Windows 10 or newer on x64' },
};

export const packageName = (platform) => `lowrank-${platform}`;

export function readManifest() {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
}

/** Writes all of a platform's package but the addon itself, which belongs beside it as lowrank.node; returns the folder. */
export function writePlatformPackage(platform, folder = join(root, 'npm', packageName(platform))) {
  const { os, cpu, libc, title } = platforms[platform];
  const { version, license, author, repository, homepage, bugs, engines } = readManifest();
  const manifest = {
    name: packageName(platform),
    version,
    description: `The native backend of lowrank for ${title}`,
    license,
    author,
    repository,
    homepage,
    bugs,
    engines,
    os: [os],
    cpu: [cpu],
    ...(libc && { libc: [libc] }),
    main: 'lowrank.node',
    files: ['lowrank.node'],
  };
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(
    join(folder, 'README.md'),
    `# ${manifest.name}\n\n${manifest.description}. It is installed with \`lowrank\` where it fits.\n`,
  );
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  return folder;
}
