from covct.cli import main

main()
