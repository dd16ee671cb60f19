# Removes the packages' own tests and headers from an environment: a third of the size, none of it run by the service.
set -eu
find "$1" -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -rf {} +
find "$1" -type d -name include -path '*/numpy/*' -prune -exec rm -rf {} +
find "$1" -type d \( -path '*/site-packages/sqlalchemy/testing' -o -path '*/site-packages/numpy/f2py' \) -prune -exec rm -rf {} +
find "$1" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' -o -name '*.c' \) -path '*/site-packages/*' -delete
# rich imports Pygments; of its 500 lexers nothing here is coloured by any.
find "$1" -path '*/site-packages/pygments/lexers/*' -name '*.py*' ! -name '__init__.*' ! -name '_mapping.*' ! -name 'python.*' -delete
# The codecs' modules come with their symbols, four fifths of them.
find "$1" -path '*/site-packages/_*' \( -name '_libjpeg*.so' -o -name '_openjpeg*.so' -o -name '_CharLS*.so' \) -exec strip --strip-unneeded {} +
